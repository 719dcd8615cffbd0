"""What this machine lacks for a protocol, in sentences. Asks no Hub and loads nothing."""

import os
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

import torch
from huggingface_hub import HfApi, is_offline_mode

from hubinit import tasks
from hubinit.errors import HubinitError
from hubinit.remote import cached_sha
from hubinit.runs.costs import device_memory, device_words
from hubinit.scoring import captions
from hubinit.scoring.evaluate import check_scorable
from hubinit.scoring.judge import URL
from hubinit.scoring.rules import MODULES
from hubinit.specs import Protocol

BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}  # of a weight
LARGE = 1 << 30  # bytes of weights above which training on a CPU takes days
UNITS = {"b": 10**9, "m": 10**6}


def lacking(protocol: Protocol) -> list[str]:
    """What is missing here for the protocol's own base models and tasks; data that are not in the cache yet included."""
    scored = [
        name for trained, groups in protocol.tasks.items() for group in groups or (trained,) for name in named(group)
    ]
    names = [*(name for group in protocol.tasks for name in named(group)), *scored]
    return [
        *lacking_memory(protocol),
        *lacking_data(protocol, dict.fromkeys(names)),
        *lacking_programs(dict.fromkeys(scored)),
    ]


def named(group: str) -> tuple[str, ...]:
    """The tasks of a group; nothing for a task of lm-eval, which finds its own data."""
    return () if tasks.named.is_named(group) else tasks.members(group)


def lacking_memory(protocol: Protocol) -> Iterator[str]:
    """Base models whose weights alone do not fit, or that only a GPU trains in sensible time; sizes are those in the names."""
    memory = device_memory()
    sizes = {model: size * BYTES[protocol.dtype] for model in protocol.models if (size := size_in_name(model))}
    for model, size in sizes.items():
        if size > memory:
            yield f"memory for {model}: its weights take {size / 2**30:.0f} GiB in {protocol.dtype}, and {device_words()}"
    slow = [model for model, size in sizes.items() if LARGE < size <= memory]
    if slow and not torch.cuda.is_available():
        yield f"a GPU for {', '.join(slow)}, too large to train on the processor"


def size_in_name(model: str) -> int | None:
    """The number of parameters that a name such as `llama2-7b` says."""
    found = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", model.lower())
    return int(float(found[1]) * UNITS[found[2]]) if found else None


def lacking_data(protocol: Protocol, names: Iterable[str]) -> Iterator[str]:
    """Data sets that are not in the cache, at the commit that the protocol pins."""
    datasets = dict.fromkeys(dataset for name in names if (dataset := tasks.get(name).dataset))
    missing = [name for name in datasets if cached_sha(name, "dataset", protocol.revisions.get(name)) is None]
    if missing:
        first = (
            "offline mode forbids to fetch them"
            if is_offline_mode()
            else f"fetched from {HfApi().endpoint} at first use"
        )
        yield f"data in the cache ({first}): {', '.join(missing)}"


def lacking_programs(names: Iterable[str]) -> Iterator[str]:
    """What the scorers and rules of some tasks need besides."""
    scored = [tasks.get(name) for name in names]
    found: list[str] = []
    for task in scored:
        try:
            check_scorable(task.name)
            if task.scorer == "e2e":
                captions.java()
        except HubinitError as error:
            found.append(f"for {task.name}: {str(error)[:1].lower()}{str(error)[1:]}")
        if task.judged and not os.environ.get(URL):
            found.append(f"for {task.name}: a judge (--judge-model and --judge-url)")
    extras = {rule.extra for task in scored for rule in task.rules if rule.extra and not find_spec(MODULES[rule.extra])}
    yield from dict.fromkeys(
        [*found, *(f'for one of the rules: pip install "hubinit[{extra}]"' for extra in sorted(extras))]
    )
