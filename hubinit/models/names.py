"""What a base model is called: from a short name, a Hub id or a folder to one exact revision. Loads nothing."""

import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi

from hubinit.errors import HubinitError, nearest
from hubinit.models.kinds import KINDS
from hubinit.remote import HUB_ERRORS, commit_sha
from hubinit.specs import ModelKind, ModelSpec

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # files of a base model that loading needs

# A `config.json` that says nothing raises one of these.
UNREADABLE: tuple[type[Exception], ...] = (*HUB_ERRORS, ValueError, KeyError, TypeError, RecursionError)


@cache
def entries() -> dict[str, dict[str, Any]]:
    """What `registry/models.yaml` says, by short name."""
    text = (files("hubinit") / "registry" / "models.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@cache
def registry() -> dict[str, ModelSpec]:
    """The short names of `registry/models.yaml`."""
    return {
        alias: ModelSpec.model_validate({name: value for name, value in entry.items() if name != "config"})
        for alias, entry in entries().items()
    }


def known_config(repo_id: str) -> dict[str, Any] | None:
    """What the shapes of a registered model depend on, as in its `config.json`; None for any other model."""
    return next((entry["config"] for entry in entries().values() if entry["id"] == repo_id), None)


def resolve(name: str) -> ModelSpec:
    """The model that a short name, a Hub id (`org/name`) or a local folder means; asks no Hub.

    Raises:
        HubinitError: a bare name that is neither an alias nor a folder.
    """
    if name in registry():
        return registry()[name]
    if is_folder(name):
        return ModelSpec(id=name, kind=folder_kind(Path(name)))
    known = next((spec for spec in registry().values() if spec.id == name), None)
    if known is not None:
        return known
    if name.count("/") != 1:
        raise HubinitError(f"Unknown model '{name}': {nearest(name, list(registry()))}")
    return ModelSpec(id=name)


def pin(spec: ModelSpec) -> ModelSpec:
    """The same model at one exact revision: the commit sha, or for a local folder the hash of its content.

    Raises:
        HubError: no such repo or revision, no access, or no Hub and no copy in the cache.
    """
    if is_folder(spec.id):
        return spec.model_copy(update={"revision": folder_hash(Path(spec.id))})
    sha, pipeline = commit_sha(spec.id, "model", spec.revision)
    kind = next((kind.name for kind in KINDS.values() if pipeline in kind.pipelines), None)
    if kind is None and spec.kind == KINDS["language"].name:  # the default, which nobody may have chosen
        kind = repo_kind(spec.id, sha)
    kind = kind or spec.kind
    return spec.model_copy(update={"revision": sha, "kind": kind})


def repo_kind(repo_id: str, revision: str) -> ModelKind | None:
    """The kind of a model on the Hub by the model type in its `config.json`; None when that cannot be read."""
    try:
        path = HfApi().hf_hub_download(repo_id, "config.json", revision=revision)
        return kind_of(json.loads(Path(path).read_bytes())["model_type"])
    except UNREADABLE:
        return None


def is_folder(name: str) -> bool:
    """Whether the name means a model folder on this machine."""
    return (Path(name) / "config.json").is_file()


def folder_kind(folder: Path) -> ModelKind:
    """The kind of the model in a folder, by the model type in its `config.json`."""
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise HubinitError(f"{folder / 'config.json'} cannot be read: {error}") from error
    return kind_of(model_type)


def kind_of(model_type: str | None) -> ModelKind:
    """Language or vision, by transformers' name of the architecture."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    )

    is_image = model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return "vision" if is_image and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "language"


def folder_hash(folder: Path) -> str:
    """The first 40 hex digits of the sha256 over the names and contents of the files that loading reads."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in WANTED for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:40]
