"""What a Hub derives from a repo's files: card metadata, tags, library, model configuration, parameter counts."""

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

from hubinit.yamlsafe import front_matter

from .bodies import parse_json
from .records import Tree
from .store import Store

CARD_MAX_BYTES = 1 << 20
DATASET_TAG_FIELDS = (
    "task_categories",
    "task_ids",
    "language",
    "license",
    "multilinguality",
    "size_categories",
    "source_datasets",
)


@dataclass(frozen=True)
class Metadata:
    """Derived facts of one commit of a repo."""

    card: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    library: str | None = None
    pipeline: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)


def problems(text: str) -> list[str]:
    """What the Hub would refuse a card for; empty when it is fine."""
    try:
        card = front_matter(text)
    except ValueError as error:
        return [str(error)]
    lists = [
        f'"{name}" must be a list of strings'
        for name in ("tags", "datasets", "metrics")
        if not _is_strings(card.get(name, []))
    ]
    texts = [
        f'"{name}" must be a string'
        for name in ("library_name", "pipeline_tag")
        if not isinstance(card.get(name, ""), str)
    ]
    strings = [
        f'"{name}" must be a string or a list of strings'
        for name in ("base_model", "license")
        if not _is_strings(card.get(name, []))
    ]
    index = ['"model-index" must be a list'] if not isinstance(card.get("model-index", []), list) else []
    return lists + texts + strings + index


def _is_strings(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def strings(value: Any) -> list[str]:
    """A field that may be one string or several, as a list of strings."""
    items = value if isinstance(value, list) else [value]
    return [str(item) for item in items if isinstance(item, (str, int, float, bool))]


@lru_cache(maxsize=4096)
def metadata(store: Store, repo_type: str, sha: str) -> Metadata:
    """The derived facts of a commit; remembered, for a commit never changes."""
    tree = store.tree_of(sha)
    try:
        card = front_matter(_text(store, tree, "README.md"))
    except ValueError:
        card = {}
    if repo_type != "model":
        benchmark = ["benchmark:official"] if "eval.yaml" in tree else []
        return Metadata(card=card, tags=(*benchmark, *_dataset_tags(card)))
    adapter, config = _json(store, tree, "adapter_config.json"), _json(store, tree, "config.json")
    weights = any(path.endswith(".safetensors") for path in tree)
    library = _only_text(card.get("library_name")) or _library(tree, config)
    shown: dict[str, Any] = {"architectures": strings(config["architectures"])} if "architectures" in config else {}
    shown |= {"model_type": config["model_type"]} if isinstance(config.get("model_type"), str) else {}
    if adapter:
        fields = ("base_model_name_or_path", "task_type")
        shown["peft"] = {name: adapter[name] for name in fields if isinstance(adapter.get(name), str)}
    pipeline = _only_text(card.get("pipeline_tag")) or _pipeline(config)
    tags = _model_tags(card, library, pipeline, adapter, config, weights)
    return Metadata(card, tuple(tags), library, pipeline, shown, _parameters(store, tree))


def _text(store: Store, tree: Tree, path: str) -> str:
    entry = tree.get(path)
    if entry is None or entry.size > CARD_MAX_BYTES:
        return ""
    return store.blobs.path(entry.sha256).read_text(errors="replace")


def _json(store: Store, tree: Tree, path: str) -> dict[str, Any]:
    try:
        content = parse_json(_text(store, tree, path) or "{}", constant=str)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _only_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None  # a commit may say anything


def _library(tree: Tree, config: dict[str, Any]) -> str | None:
    """What a repo without a word on it in its card is loaded with; an adapter often lies beside its base's `config.json`."""
    if "adapter_config.json" in tree:
        return "peft"
    return "transformers" if "model_type" in config else None


def _pipeline(config: dict[str, Any]) -> str | None:
    names = strings(config.get("architectures", []))
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "text-generation"
    return "image-classification" if any(name.endswith("ForImageClassification") for name in names) else None


def _model_tags(
    card: dict[str, Any], library: Any, pipeline: Any, adapter: dict[str, Any], config: dict[str, Any], weights: bool
) -> list[str]:
    tags = strings([library, "safetensors" if weights else None, config.get("model_type"), pipeline])
    tags += strings(card.get("tags", [])) + strings(card.get("language", []))
    relation = card.get("base_model_relation") or ("adapter" if adapter else "finetune")
    bases = strings(card.get("base_model", [])) or strings(adapter.get("base_model_name_or_path"))
    for base in bases:
        tags += [f"base_model:{base}", f"base_model:{relation}:{base}"]
    tags += [f"dataset:{name}" for name in strings(card.get("datasets", []))]
    tags += [f"license:{name}" for name in strings(card.get("license", []))]
    tags += ["model-index"] if "model-index" in card else []
    return list(dict.fromkeys([*tags, "region:us"]))


def _dataset_tags(card: dict[str, Any]) -> list[str]:
    tags = [f"{name}:{value}" for name in DATASET_TAG_FIELDS for value in strings(card.get(name, []))]
    return list(dict.fromkeys([*strings(card.get("tags", [])), *tags, "region:us"]))


def _parameters(store: Store, tree: Tree) -> dict[str, int]:
    """Numbers of parameters by dtype, from the headers of the safetensors files."""
    totals: dict[str, int] = {}
    for path, entry in tree.items():
        if not path.endswith(".safetensors") or "/" in path:
            continue
        with store.blobs.path(entry.sha256).open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            try:
                header = parse_json(file.read(length)) if 0 < length < 32 << 20 else {}
                for name, tensor in header.items():
                    if name != "__metadata__":
                        totals[tensor["dtype"]] = totals.get(tensor["dtype"], 0) + _count(tensor["shape"])
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # named like safetensors, but it is something else
    return totals


def _count(shape: list[int]) -> int:
    """The number of elements of a tensor.

    Raises:
        ValueError: nothing that could be stored has this shape.
    """
    if len(shape) > 16 or not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise ValueError("not a shape")
    return prod(shape)
