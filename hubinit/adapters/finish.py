"""From an adapter that plain PEFT saved, and the start it came from, to one exact plain LoRA on the untouched base.

The adapter was trained on W − s₀·B₀A₀, the base with the anchor merged in. With the untouched base the trained model is
W + s·BA − s₀·B₀A₀: per module A' = [A; A₀] and B' = [s·B, −s₀·B₀], of rank 2r, with every scaling equal to 1. Only files are
read; the base model is not needed.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor

from hubinit.adapters.anchor import ANCHOR
from hubinit.adapters.configs import rank_fields
from hubinit.adapters.mark import mark_in, read_mark
from hubinit.adapters.patterns import check_patterns
from hubinit.adapters.saving import SavedAdapter, list_saved, prepare, write_tensors
from hubinit.adapters.untrusted import (
    A_END,
    B_END,
    CONFIG,
    PREFIX,
    WEIGHTS,
    check_files,
    check_finite,
    read_config,
    read_header,
)
from hubinit.errors import HubinitError
from hubinit.text import one_line


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as PEFT stores it: its configuration, and its tensors by their names in the file."""

    directory: Path
    config: Any
    tensors: dict[str, Tensor]

    @property
    def ranks(self) -> dict[str, int]:
        """Module name → rank of its LoRA."""
        factors = {key: tensor for key, tensor in self.tensors.items() if key.endswith(A_END)}
        return {key.removeprefix(PREFIX).removesuffix(A_END): A.shape[0] for key, A in factors.items()}

    @property
    def sides(self) -> dict[str, tuple[int, ...]]:
        """Module name → (m, n) of its weight."""
        ends = {name: (f"{PREFIX}{name}{B_END}", f"{PREFIX}{name}{A_END}") for name in self.ranks}
        return {name: (self.tensors[b].shape[0], *self.tensors[a].shape[1:]) for name, (b, a) in ends.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}


def finish_files(adapter: Path, start: Path, directory: Path) -> SavedAdapter:
    """Writes the plain LoRA that is, on the untouched base, what the adapter is on the base with the anchor merged in.

    Trained heads and embeddings stay as they are. Where the start has no anchor, the adapter is right already and is copied.

    Args:
        adapter: folder that PEFT or a trainer saved: `adapter_config.json` and `adapter_model.safetensors`.
        start: folder of the start point that the training began with, with its `anchor/` where it has one.
        directory: is created; files of an earlier adapter in it are replaced.

    Raises:
        HubinitError: the adapter was trained from another start, has no plain LoRA form, or cannot be read; or `directory` is
            one of the two.
    """
    taken = {folder.resolve() for source in (adapter, start) for folder in (source, source / ANCHOR)}
    if taken & {directory.resolve(), (directory / ANCHOR).resolve()}:
        raise HubinitError(f"{directory} holds what is to be read: choose another folder for the result.")
    trained, initial = read_adapter(adapter), read_adapter(start)
    check_same_start(trained, initial)
    if (start / ANCHOR / CONFIG).is_file():
        check_plain(trained)
        anchor = read_adapter(start / ANCHOR)
        check_whole_anchor(initial, anchor)
        check_own_anchor(adapter, anchor)
        return _write(stack_factors(trained, anchor), initial.config, directory)
    if (adapter / ANCHOR / CONFIG).is_file():
        raise HubinitError(
            f"{adapter} has an {ANCHOR}/ and the start {start} has not: give the start that the training loaded."
        )
    prepare(directory).mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG):  # last: PEFT looks for the configuration first
        shutil.copyfile(adapter / name, directory / name)
    return list_saved(directory, max(trained.ranks.values(), default=0))


def read_adapter(directory: Path) -> StoredAdapter:
    """Reads the configuration and the tensors of a saved adapter.

    Raises:
        HubinitError: one of the files is missing or damaged, or the two do not fit together.
    """
    check_files(directory)
    config = read_config(directory)
    shapes = {name: one.shape for name, one in read_header(directory / WEIGHTS).items()}
    names = {key.removeprefix(PREFIX).removesuffix(A_END): key for key in shapes if key.endswith(A_END)}
    check_patterns(config, names, directory / CONFIG)
    for name, key in names.items():
        A, B = shapes[key], shapes.get(key.removesuffix(A_END) + B_END, ())
        whole = len(A) > 1 and len(B) == len(A) and A[0] == B[1]
        if not whole or (isinstance(config, LoraConfig) and A[0] != _rank_of(config, name)):
            raise HubinitError(
                f"{directory} holds a damaged adapter: the factors of {one_line(name)} do not have the rank that {CONFIG} "
                "says; get it again."
            )
    check_finite(directory / WEIGHTS)
    return StoredAdapter(directory, config, load_file(directory / WEIGHTS))


def _rank_of(config: LoraConfig, name: str) -> int:
    rank: int = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
    return rank


def check_same_start(trained: StoredAdapter, start: StoredAdapter) -> None:
    """Refuses an adapter of another start: the marks must be equal, and the shapes of all its tensors.

    Starts that were saved before there were marks have none; there the shapes alone must do.

    Raises:
        HubinitError: in one sentence.
    """
    mark = read_mark(start.config)
    if mark is not None and mark_in(start.directory / ANCHOR / CONFIG) != mark:
        raise HubinitError(f"{start.directory} is not a whole start point: its own anchor/ is missing; fetch it again.")
    same_shapes = start.shapes.items() <= trained.shapes.items() and trained.ranks == start.ranks
    if not same_shapes or trained.config.peft_type != start.config.peft_type or read_mark(trained.config) != mark:
        differs = "the mark of another start or none" if same_shapes else "other modules or ranks"
        raise HubinitError(
            f"{trained.directory} was not trained from the start {start.directory}: it has {differs}; "
            "give the start that the training loaded."
        )


def check_whole_anchor(start: StoredAdapter, anchor: StoredAdapter) -> None:
    """Refuses a start whose anchor is not for all of its modules, as they are.

    Raises:
        HubinitError: in one sentence.
    """
    lora = isinstance(start.config, LoraConfig) and isinstance(anchor.config, LoraConfig)
    if not lora or anchor.sides != start.sides:
        raise HubinitError(f"{start.directory} is not a whole start point: its anchor/ is not its own; fetch it again.")


def check_own_anchor(adapter: Path, anchor: StoredAdapter) -> None:
    """Refuses an adapter folder that brings an anchor of its own with other numbers: a run that resumed from another start.

    Raises:
        HubinitError: in one sentence.
    """
    if not (adapter / ANCHOR / CONFIG).is_file():
        return
    own = read_adapter(adapter / ANCHOR)
    if own.shapes != anchor.shapes or any(
        not torch.equal(own.tensors[key], anchor.tensors[key]) for key in own.tensors
    ):
        raise HubinitError(
            f"{adapter} has an {ANCHOR}/ that is not the start's: call hubinit.load_initialized on it, then hubinit.export."
        )


def check_plain(trained: StoredAdapter) -> None:
    """Refuses an adapter that cannot be written as a plain LoRA with more rank.

    Raises:
        HubinitError: naming what stands in the way.
    """
    others = [key for key in trained.tensors if ".lora_" in key and not key.endswith((A_END, B_END))]
    odd = {key.partition(".lora_")[2] for key in others}
    odd |= {name for name in ("use_dora", "target_parameters") if getattr(trained.config, name, None)}
    if odd:
        raise HubinitError(
            f"{trained.directory} is not a plain LoRA ({', '.join(sorted(odd))}), so the anchor cannot be put into it: "
            f"copy the start's {ANCHOR}/ into its folder, then call hubinit.load_initialized and hubinit.export."
        )


def stack_factors(trained: StoredAdapter, anchor: StoredAdapter) -> StoredAdapter:
    """The adapter with A' = [A; A₀] and B' = [s·B, −s₀·B₀] where the anchor has the module, and every scaling equal to 1.

    Args:
        trained: A (r, n) and B (m, r) per module; its configuration says s.
        anchor: A₀ (r₀, n) and −B₀ (m, r₀); its configuration says s₀.
    """
    tensors, anchored = dict(trained.tensors), anchor.ranks
    for name in trained.ranks:
        A, B = _scaled_factors(trained, name)  # (r, n), (m, r)
        if name in anchored:
            A0, B0 = _scaled_factors(anchor, name)  # (r₀, n), (m, r₀)
            A, B = torch.cat([A, A0]), torch.cat([B, B0], dim=1)  # (r + r₀, n), (m, r + r₀)
        tensors[f"{PREFIX}{name}{A_END}"], tensors[f"{PREFIX}{name}{B_END}"] = A, B
    return StoredAdapter(trained.directory, trained.config, tensors)


def _scaled_factors(adapter: StoredAdapter, name: str) -> tuple[Tensor, Tensor]:
    """A (r, n) and s·B (m, r) in float32 or better, with s as PEFT takes it from the configuration."""
    A, B = (adapter.tensors[f"{PREFIX}{name}{end}"] for end in (A_END, B_END))
    config = adapter.config
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
    scaling = alpha / (math.sqrt(A.shape[0]) if config.use_rslora else A.shape[0])
    dtype = torch.promote_types(A.dtype, torch.float32)
    return A.to(dtype), B.to(dtype) * scaling


def _write(finished: StoredAdapter, start_config: Any, directory: Path) -> SavedAdapter:
    config, ranks = finished.config, finished.ranks
    for field, value in rank_fields(ranks, 1.0, rslora=False).items():
        setattr(config, field, value)
    config.init_lora_weights, config.inference_mode = True, True
    if start_config.base_model_name_or_path:  # the trainer may have loaded a copy with the anchor merged in
        config.base_model_name_or_path, config.revision = start_config.base_model_name_or_path, start_config.revision
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set has another order in every process
    prepare(directory).mkdir(parents=True, exist_ok=True)
    tensors = {name: finished.tensors[name].contiguous() for name in sorted(finished.tensors)}
    write_tensors(tensors, directory / WEIGHTS)
    config.save_pretrained(str(directory))  # last: PEFT looks for the configuration first
    return list_saved(directory, max(ranks.values()))
