r"""The mark of an anchored start: one entry in the adapter's configuration that outlives training and saving with plain PEFT.

An adapter that was trained from the two printed lines is right only on the base with the anchor merged in. Its weights do not
say so, and PEFT drops unknown keys of `adapter_config.json`. It keeps `alpha_pattern`, which maps regular expressions for module
names to alphas. So the adapter and its anchor both carry the key `^first\.module|hubinit-anchor-<16 hex digits>` there, which
gives the first module the alpha that it has anyway. (PEFT warns about a key that matches no module at all.)
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from hubinit.adapters.untrusted import CONFIG, read_json
from hubinit.errors import HubinitError

MARK = re.compile(r"hubinit-anchor-[0-9a-f]{16}")
ANCHOR_CONFIG = f"anchor/{CONFIG}"


def name_mark(factors: Mapping[str, tuple[Tensor, Tensor]], scalings: Mapping[str, float]) -> str:
    """The mark of an anchor: equal for equal anchors only.

    Args:
        factors: module name → A (r, n), B (m, r) of the anchor.
        scalings: module name → s.
    """
    digest = hashlib.sha256()
    for name in sorted(factors):
        digest.update(f"{name} {scalings[name]!r}".encode())
        for tensor in factors[name]:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return "hubinit-anchor-" + digest.hexdigest()[:16]


def read_mark(config: Any) -> str | None:
    """The mark in a PEFT configuration (the object, or the content of its file); None without one."""
    pattern = config.get("alpha_pattern") if isinstance(config, dict) else getattr(config, "alpha_pattern", None)
    found = next(filter(None, map(MARK.search, pattern if isinstance(pattern, dict) else ())), None)
    return found[0] if found else None


def set_mark(config: Any, mark: str, module: str) -> None:
    """Puts a mark into a LoRA's configuration, as an alternative name of an adapted module."""
    pattern = config.alpha_pattern or {}
    alpha = pattern.get(get_pattern_key(pattern, module), config.lora_alpha)
    config.alpha_pattern = {**pattern, f"^{re.escape(module)}|{mark}": alpha}


def check_anchor_kept(directory: Path) -> None:
    """Refuses an adapter folder that carries the mark of an anchored start but does not hold that start's anchor.

    Raises:
        HubinitError: with what to do about it.
    """
    mark = mark_in(directory / CONFIG)
    if mark is not None and mark_in(directory / ANCHOR_CONFIG) != mark:
        raise HubinitError(
            f"{directory} lost its anchor: the adapter was trained on a base with the anchor merged in, and is wrong on the "
            f"untouched base; `hubinit finish {directory} --init START --out DIR` makes it right, with the start it came from."
        )


def mark_in(path: Path) -> str | None:
    """The mark in an `adapter_config.json`; None without one, or without a readable file."""
    try:
        return read_mark(read_json(path))
    except HubinitError:  # whoever reads the folder for real says what is wrong with it
        return None
