"""Base models: from a short name to the exact revision on the Hub, and into memory.

`resolve` reads names only, `pin` asks the Hub for the commit, `load` downloads and loads. Weights are safetensors only, and code
from a repo never runs unless the specification says so.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi, constants, is_offline_mode, snapshot_download

from hubinit.config import ModelKind, ModelSpec
from hubinit.errors import HubError, HubinitError, nearest
from hubinit.hub.client import RepoType, call, is_transient

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # files of a base model that loading needs
UNWANTED = ["*/*", "consolidated*"]  # other formats of the same weights


@dataclass(frozen=True)
class Loaded:
    """A base model in memory, in evaluation mode; `processor` is its tokenizer or image processor."""

    model: Any
    processor: Any
    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype


@cache
def registry() -> dict[str, ModelSpec]:
    """The short names of `registry/models.yaml`."""
    text = (files("hubinit") / "registry" / "models.yaml").read_text(encoding="utf-8")
    return {alias: ModelSpec(**entry) for alias, entry in yaml.safe_load(text).items()}


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
    kind = "vision" if pipeline in {"image-classification", "image-feature-extraction"} else spec.kind
    return spec.model_copy(update={"revision": sha, "kind": kind})


def load(
    spec: ModelSpec, device: str | torch.device | None = None, *, labels: Sequence[str] | None = None, seed: int = 0
) -> Loaded:
    """Downloads (once) and loads a base model with its tokenizer or image processor.

    Args:
        spec: the model; `pin` it first to load one exact revision.
        device: None takes the GPU when there is one.
        labels: class names of an image classifier; it gets a fresh head for them. Ignored by language models.
        seed: of the fresh head.

    Raises:
        HubError: gated, missing, unreachable, without safetensors weights, of a type that cannot be loaded, or no disk space.
    """
    import transformers

    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(spec, place)
    folder = download(spec)
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code, "local_files_only": True}
    weights = {**options, "dtype": dtype, "use_safetensors": True}
    try:
        with quiet():
            if spec.kind == "language":
                processor = transformers.AutoTokenizer.from_pretrained(folder, **options)
                model = transformers.AutoModelForCausalLM.from_pretrained(folder, **weights)
            else:
                processor = transformers.AutoImageProcessor.from_pretrained(folder, **options)
                model = load_classifier(folder, weights, labels or (), seed)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        what = "a causal language model" if spec.kind == "language" else "an image classifier"
        raise HubError(f"{spec.id} could not be loaded as {what}: {first}") from error
    if spec.kind == "language" and processor.pad_token_id is None:
        processor.pad_token = processor.eos_token  # only fills; every mask is made from lengths
    for named in (model.config, model, processor):  # adapters and cards name the repo, not the folder of the cache
        for attribute in ("_name_or_path", "name_or_path"):
            if hasattr(named, attribute):
                setattr(named, attribute, spec.id)
    return Loaded(model.to(place).eval(), processor, spec, place, dtype)


def load_classifier(folder: Path, weights: dict[str, Any], labels: Sequence[str], seed: int) -> Any:
    """An image classifier with a fresh head for `labels`, drawn from `seed` without touching the global generator."""
    import transformers

    names = dict(enumerate(labels))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            num_labels=len(names),
            id2label=names,
            label2id={name: index for index, name in names.items()},
            ignore_mismatched_sizes=True,
            **weights,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and load reports off the screen; errors still come as exceptions."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def download(spec: ModelSpec) -> Path:
    """The folder with the model's files; only what is needed is downloaded, and only once.

    Raises:
        HubError: as `load`.
    """
    if is_folder(spec.id):
        folder = Path(spec.id)
    else:
        api = HfApi()
        wanted = [*WANTED, "*.py"] if spec.trust_remote_code else WANTED
        try:
            folder = Path(
                call(
                    f"download {spec.id}",
                    lambda: snapshot_download(
                        spec.id, revision=spec.revision, allow_patterns=wanted, ignore_patterns=UNWANTED
                    ),
                    api=api,
                )
            )
        except HubError as error:
            if getattr(error.__cause__, "errno", None) == 28:  # ENOSPC
                raise HubError(
                    f"No space left for {spec.id} in {constants.HF_HUB_CACHE}; free some, or move the cache with HF_HOME."
                ) from error
            raise
    if not (folder / "config.json").is_file():
        raise HubError(f"{spec.id} has no config.json, so it is not a model that transformers can load.")
    if not list(folder.glob("*.safetensors")):
        raise HubError(
            f"{spec.id} has no safetensors weights; hubinit loads no other format, because others can run code."
        )
    return folder


def commit_sha(repo_id: str, repo_type: RepoType, revision: str | None = None) -> tuple[str, str]:
    """The commit that a revision (default: main) names, and the repo's declared pipeline ("" when it has none).

    Without a network the newest copy in the cache stands for it.

    Raises:
        HubError: no such repo or revision, no access, or no Hub and no copy in the cache.
    """
    api = HfApi()
    if is_offline_mode():
        if (sha := cached_sha(repo_id, repo_type, revision)) is None:
            raise HubError(f"{repo_id} is not in the cache, and HF_HUB_OFFLINE forbids to ask {api.endpoint}.")
        return sha, ""
    try:
        info = call(f"find {repo_id}", lambda: api.repo_info(repo_id, repo_type=repo_type, revision=revision), api=api)
    except HubError as error:
        if is_transient(error.__cause__) and (sha := cached_sha(repo_id, repo_type, revision)) is not None:
            return sha, ""
        raise
    if info.sha is None:
        raise HubError(f"{repo_id} on {api.endpoint} has no commits.")
    return info.sha, getattr(info, "pipeline_tag", None) or ""


def cached_sha(repo_id: str, repo_type: RepoType, revision: str | None) -> str | None:
    """The commit of the copy in the local cache, if there is one (the newest, unless `revision` asks for another)."""
    folder = Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{repo_id.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    snapshots = sorted(folder.glob("snapshots/*"), key=lambda path: path.stat().st_mtime)
    names = [path.name for path in snapshots if revision is None or path.name == revision]
    return names[-1] if names else None


def choose_dtype(spec: ModelSpec, device: torch.device) -> torch.dtype:
    """The floating-point type to load weights in.

    `auto` is bfloat16 wherever it is fast, else float32; always float32 for image models, whose new head is trained as it is.
    """
    if spec.dtype != "auto":
        return torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32
    if spec.kind == "vision":
        return torch.float32
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else bfloat16_is_fast()
    return torch.bfloat16 if fast else torch.float32


@cache
def bfloat16_is_fast(size: int = 512, repeats: int = 5) -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones: measured once, the best of a few tries each.

    CPUs with bfloat16 instructions are two to four times faster, those without several times slower, so noise does not decide.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)  # (size, size)
        _ = matrix @ matrix  # warm-up
        tries = []
        for _ in range(repeats):
            start = time.perf_counter()
            _ = matrix @ matrix
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def is_folder(name: str) -> bool:
    """Whether the name means a model folder on this machine."""
    return (Path(name) / "config.json").is_file()


def folder_kind(folder: Path) -> ModelKind:
    """Language or vision, by the model type in `config.json`."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    )

    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise HubinitError(f"{folder / 'config.json'} cannot be read: {error}") from error
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
