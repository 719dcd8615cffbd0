"""What `hubinit eval` is pointed at: a base model, or an adapter whose base is found by itself."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hubinit import tasks
from hubinit.errors import HubError, first_line
from hubinit.models.base import load
from hubinit.models.names import pin, resolve
from hubinit.remote import call


def load_target(target: str, task: str) -> tuple[Any, Any]:
    """Loads a base model, or an adapter on its base.

    Args:
        target: alias, Hub id or folder of a base model or an adapter.
        task: an image classifier needs to know whose classes it has.

    Returns:
        The model with its adapter active, and its tokenizer or image processor.

    Raises:
        HubError: the target or its base cannot be had.
    """
    if not is_adapter(target):
        loaded = load(pin(resolve(target)), **_labels(resolve(target).kind, task))
        return loaded.model, loaded.processor
    from peft import PeftConfig

    from hubinit.adapters import load_initialized

    try:
        config = PeftConfig.from_pretrained(target)
    except (ValueError, TypeError, OSError) as error:
        raise HubError(f"The adapter_config.json of {target} cannot be read: {first_line(error)}.") from error
    spec = resolve(str(config.base_model_name_or_path)).model_copy(update={"revision": config.revision})
    loaded = load(pin(spec), **_labels(spec.kind, task))
    return load_initialized(loaded.model, target, trainable=False), loaded.processor


def is_adapter(target: str) -> bool:
    """Whether the folder or Hub repo holds a PEFT adapter."""
    if Path(target).is_dir():
        return (Path(target) / "adapter_config.json").is_file()
    if target.count("/") != 1:
        return False
    try:
        call(f"look at {target}", lambda: hf_hub_download(target, "adapter_config.json"), api=HfApi())
    except HubError as error:
        if isinstance(error.__cause__, EntryNotFoundError):  # also: not in the cache, and no network
            return False
        raise
    return True


def _labels(kind: str, task: str) -> dict[str, Any]:
    return {"labels": tasks.labels(task)} if kind == "vision" else {}
