"""What `hubinit eval` is pointed at: a base model, or an adapter whose base is found by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hubinit import tasks
from hubinit.adapters import head_size, load_initialized
from hubinit.adapters.reload import adapter_folder
from hubinit.adapters.swap import next_adapter
from hubinit.adapters.untrusted import CONFIG, WEIGHTS, parse_config, read_json
from hubinit.errors import HubError, HubinitError
from hubinit.models.base import load
from hubinit.models.kinds import KINDS
from hubinit.models.names import pin, resolve
from hubinit.paths import sha256_of
from hubinit.records import MANIFEST
from hubinit.remote import call
from hubinit.scoring.engines import load_vllm, vllm_version
from hubinit.specs import DataSpec, Dtype, Engine, ModelSpec


@dataclass(frozen=True)
class Target:
    """What is scored.

    Attributes:
        name: alias, Hub id or folder, as the user wrote it.
        base: the base model at its exact revision.
        adapter: whether an adapter is on it.
        engine: what answers.
    """

    name: str
    base: ModelSpec
    adapter: bool
    engine: Engine

    def identity(self) -> dict[str, str]:
        """What makes two targets the same: answers of others must not be mixed with these."""
        weights = {"adapter": sha256_of(file_of(self.name, WEIGHTS))} if self.adapter else {}
        base = {"base": self.base.id, "revision": str(self.base.revision), "dtype": self.base.dtype}
        return base | weights | {"engine": self.engine}


Load = Callable[[Target, Sequence[str]], tuple[Any, Any]]  # (what, for which tasks) ─► the model and its processor


def find_target(target: str, wanted: Sequence[str], dtype: Dtype = "auto", engine: Engine = "transformers") -> Target:
    """Finds a base model, or an adapter and its base, and checks that the tasks are for it; weights stay where they are.

    Args:
        target: alias, Hub id or folder of a base model or an adapter.
        wanted: the tasks.
        dtype: of the base's weights.
        engine: what answers.

    Raises:
        HubError: the target or its base cannot be had.
        HubinitError: tasks of another kind.
    """
    if engine == "vllm":
        vllm_version()  # before anything is downloaded
    adapter = is_adapter(target)
    base = pin((base_of(target) if adapter else resolve(target)).model_copy(update={"dtype": dtype}))
    for name in wanted:
        tasks.check_kind(name, base)
    return Target(target, base, adapter, engine)


def load_target(
    target: str, wanted: Sequence[str], dtype: Dtype = "auto", engine: Engine = "transformers"
) -> tuple[Any, Any]:
    """Finds and loads a target, see `find_target` and `load_found`."""
    return load_found(find_target(target, wanted, dtype, engine), wanted)


def share_base() -> Load:
    """A `load_found` for one target after another: adapters of the base that is in memory are swapped on it."""
    held: list[tuple[ModelSpec, Any, Any]] = []

    def load(found: Target, wanted: Sequence[str]) -> tuple[Any, Any]:
        swappable = found.adapter and found.engine == "transformers" and not KINDS[found.base.kind].labelled
        base, model, processor = held.pop() if held else (None, None, None)
        if swappable and model is not None and base == found.base:
            model = next_adapter(model, found.name)
        else:
            model = None  # its memory is needed
            model, processor = load_found(found, wanted)
        if found.engine == "transformers":
            held.append((found.base, model, processor))
        return model, processor

    return load


def load_found(found: Target, wanted: Sequence[str]) -> tuple[Any, Any]:
    """Loads a base model, or an adapter on its base, to be scored on tasks.

    Args:
        found: what.
        wanted: the tasks. A labelled kind has one head, so there it is one task, whose classes the adapter was trained for.

    Returns:
        The model with its adapter active, and its tokenizer or image processor.

    Raises:
        HubError: the target or its base cannot be had.
        HubinitError: a head that is untrained or has other classes.
    """
    target, spec, adapter = found.name, found.base, found.adapter
    if found.engine == "vllm":
        if KINDS[spec.kind].labelled:
            raise HubinitError(f"{target} is {KINDS[spec.kind].noun}, and vLLM only writes text; leave out --engine.")
        answering = load_vllm(spec, adapter_folder(target) if adapter else None)
        return answering, answering.llm.get_tokenizer()
    labels = head_of(target, spec, wanted, adapter) if KINDS[spec.kind].labelled else None
    loaded = load(spec, labels=labels)
    if not adapter:
        return loaded.model, loaded.processor
    return load_initialized(loaded.model, target, trainable=False), loaded.processor


def base_of(adapter: str) -> ModelSpec:
    """The base that an adapter's configuration names.

    Raises:
        HubError: the configuration cannot be had.
        HubinitError: it is not one, or names no base.
    """
    config = parse_config(file_of(adapter, CONFIG))
    if not config.base_model_name_or_path:
        raise HubinitError(f"The {CONFIG} of {adapter} names no base: write its Hub id to base_model_name_or_path.")
    return resolve(config.base_model_name_or_path).model_copy(update={"revision": config.revision})


def head_of(target: str, spec: ModelSpec, wanted: Sequence[str], adapter: bool) -> list[str]:
    """The classes of the head that is to be scored.

    Raises:
        HubinitError: it is untrained, or made for other classes than the task's.
    """
    noun = KINDS[spec.kind].noun
    if not adapter:
        raise HubinitError(f"{target} is {noun} without a trained head: score an adapter that was trained on the task.")
    if len(wanted) > 1:
        raise HubinitError(f"{target} is {noun} with one head: score one task at a time, not {', '.join(wanted)}.")
    labels = tasks.labels(wanted[0])
    size = head_size(file_of(target, WEIGHTS))
    if size is None:
        raise HubinitError(f"{target} holds no trained head, so nothing can be scored.")
    trained_on = trained_tasks(target)
    if size != len(labels) or (trained_on and wanted[0] not in trained_on):
        known = f" for {', '.join(trained_on)}" if trained_on else ""
        raise HubinitError(f"The head of {target} was trained{known} with {size} classes, not for '{wanted[0]}'.")
    return labels


def trained_tasks(adapter: str) -> tuple[str, ...]:
    """The tasks that an adapter says it was trained on; nothing where it does not say."""
    try:
        data = read_json(file_of(adapter, MANIFEST))["result"]["spec"]["data"]
        return tuple(str(name) for name in data["tasks"])
    except (HubinitError, KeyError, TypeError):
        return ()


def trained_on(adapter: str) -> DataSpec | None:
    """The training data that an adapter states, where all of them are tasks; None where it does not say.

    Others may have written it: names that are not tasks here count as nothing said.
    """
    try:
        data = DataSpec.model_validate(read_json(file_of(adapter, MANIFEST))["result"]["spec"]["data"])
        for name in data.tasks:
            tasks.get(name)
    except (HubinitError, KeyError, TypeError, ValueError):
        return None
    return data if data.own is None else None


def is_adapter(target: str) -> bool:
    """Whether the folder or Hub repo holds a PEFT adapter."""
    if Path(target).is_dir():
        return (Path(target) / CONFIG).is_file()
    if target.count("/") != 1:
        return False
    try:
        file_of(target, CONFIG)
    except HubError as error:
        if isinstance(error.__cause__, EntryNotFoundError):  # also: not in the cache, and no network
            return False
        raise
    return True


def file_of(target: str, name: str) -> Path:
    """One file of a folder or Hub repo.

    Raises:
        HubError: the repo or the file cannot be had.
    """
    if Path(target).is_dir():
        return Path(target) / name
    return Path(call(f"look at {target}", lambda: hf_hub_download(target, name), api=HfApi()))
