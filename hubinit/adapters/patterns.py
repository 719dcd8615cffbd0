r"""Regular expressions in a configuration that others wrote, tried on the base's names before PEFT runs them.

PEFT matches `target_modules` and `exclude_modules` (where they are strings) and the keys of `rank_pattern` and `alpha_pattern`
as regular expressions. Some, like `(x+x+)+y`, take longer than the age of the universe, and Python's matcher cannot be
interrupted. So what is more than a plain name is first matched by another process, which can be ended.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from hubinit.errors import HubinitError
from hubinit.text import one_line

MANY = 256  # names and patterns that no base is too small for
SECONDS = 5.0  # for all patterns on all names; a sane one takes a microsecond per name
PLAIN = re.compile(r"[\w.^|-]|\\[.\-]")  # names as hubinit writes them; no repeats, no groups

_MATCH = r"""
import json, re, sys
whole, ends, names = json.load(sys.stdin)
for pattern in whole + [rf"(.*\.)?({end})$" for end in ends]:
    try:
        compiled = re.compile(pattern)
    except Exception:
        sys.exit(3)
    for name in names:
        compiled.fullmatch(name)
        compiled.match(name)
"""


def check_patterns(config: Any, names: Iterable[str], where: object) -> None:
    """Checks that every regular expression of a configuration can be matched against the base's names in no time.

    Args:
        config: of PEFT.
        names: modules of the base.
        where: the configuration's file, for the message.

    Raises:
        HubinitError: one is not a regular expression or takes too long, or there are far more than modules.
    """
    names = list(names)
    fields = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern", "modules_to_save")
    values = {name: getattr(config, name, None) or () for name in (*fields, "rank_pattern", "alpha_pattern")}
    for name, value in values.items():
        if not isinstance(value, str) and len(value) > max(MANY, 2 * len(names)):
            raise HubinitError(
                f"{where} cannot be used: {name} has {len(value)} entries, far more than the base has modules."
            )
    layers = values.pop("layers_pattern")
    whole = [value for value in values.values() if isinstance(value, str)]
    saved = values["modules_to_save"] if not isinstance(values["modules_to_save"], str) else ()
    ends = [*values["rank_pattern"], *values["alpha_pattern"], *saved]
    ends += [layers] if isinstance(layers, str) else layers
    if all(_is_plain(pattern) for pattern in (*whole, *ends)):
        return
    try:
        done = subprocess.run(  # noqa: S603  (Python itself, with a constant program)
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([whole, ends, names]).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        longest = one_line(max((*whole, *ends), key=len))[:80]
        raise HubinitError(
            f"{where} cannot be used: a regular expression for its modules takes more than {SECONDS:g} seconds "
            f"({longest}); name the modules instead."
        ) from None
    if done.returncode:
        raise HubinitError(f"{where} cannot be used: a name of its modules is not a regular expression.")


def _is_plain(pattern: str) -> bool:
    return not PLAIN.sub("", pattern)
