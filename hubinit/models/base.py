"""Base models: from the Hub into memory. Safetensors only; a repo's code runs only if the specification says so."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, constants, snapshot_download

from hubinit.errors import HubError, first_line
from hubinit.models.dtype import choose_dtype, default_device
from hubinit.models.kinds import KINDS
from hubinit.models.layers import linear_layers, output_heads
from hubinit.models.names import WANTED, is_folder
from hubinit.models.quantising import check_quantisation, keep_layout, quantised_loading
from hubinit.remote import call
from hubinit.specs import ModelSpec

UNWANTED = ["*/*", "consolidated*"]  # other formats of the same weights
HEAD_STD = 0.02  # of a fresh head's weights: `initializer_range` of ViT (arXiv 2010.11929) and DINOv2 in transformers


@dataclass(frozen=True)
class Loaded:
    """A base model in memory, in evaluation mode; `processor` is its tokenizer or image processor."""

    model: Any
    processor: Any
    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype


def load(
    spec: ModelSpec, device: str | torch.device | None = None, *, labels: Sequence[str] | None = None, seed: int = 0
) -> Loaded:
    """Downloads (once) and loads a base model with its tokenizer or image processor.

    Args:
        spec: the model; `pin` it first to load one exact revision.
        device: None takes the GPU when there is one.
        labels: class names of a labelled kind, which gets a fresh head for them. Ignored by other kinds.
        seed: of the fresh head, see `draw_head`.

    Raises:
        HubError: gated, missing, unreachable, without safetensors weights, of a type that cannot be loaded, or no disk space.
    """
    place = default_device() if device is None else torch.device(device)
    dtype: torch.dtype = getattr(torch, choose_dtype(spec, place))
    kind = KINDS[spec.kind]
    folder = download(spec)
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code, "local_files_only": True}
    check_quantisation(spec)
    weights = {**options, "dtype": dtype, "use_safetensors": True, **quantised_loading(spec, dtype, place)}
    try:
        with quiet():
            processor = getattr(transformers, kind.processor_class).from_pretrained(
                folder, **options, **kind.processing
            )
            auto = getattr(transformers, kind.auto_class)
            if kind.labelled:
                model = load_labelled(auto, folder, weights, labels or (), seed)
            else:
                model = auto.from_pretrained(folder, **weights)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise HubError(f"{spec.id} could not be loaded as {kind.noun}: {first_line(error)}.") from error
    if getattr(processor, "pad_token_id", 0) is None:  # a tokenizer without one
        processor.pad_token = processor.eos_token  # only fills; every mask is made from lengths
    for named in (model.config, model, processor):  # adapters and cards name the repo, not the folder of the cache
        for attribute in ("_name_or_path", "name_or_path"):
            if hasattr(named, attribute):
                setattr(named, attribute, spec.id)
    if spec.quantize is None:
        model = model.to(place)  # a quantised one was loaded there
    elif place.type == "cpu":
        keep_layout(model)
    return Loaded(model.eval(), processor, spec, place, dtype)


def load_labelled(auto: Any, folder: Path, weights: dict[str, Any], labels: Sequence[str], seed: int) -> Any:
    """A classifier with a fresh head for `labels`; the global generator stays as it was."""
    names = dict(enumerate(labels))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of whatever else the repo has no weights for
        model = auto.from_pretrained(
            folder,
            num_labels=len(names),
            id2label=names,
            label2id={name: index for index, name in names.items()},
            ignore_mismatched_sizes=True,
            **weights,
        )
    draw_head(model, seed)
    return model


@torch.no_grad()
def draw_head(model: Any, seed: int) -> None:
    """Draws the head of a classifier anew, by one rule for every architecture: weights from N(0, 0.02²), biases 0.

    A trained head that the repo has, for other classes that happen to be as many, goes too. The head is not zero: a zero head
    sends no gradient into the layers below, and methods that begin with gradients would see nothing.

    Args:
        model: without adapters.
        seed: the head depends on it only, whatever the device and dtype of the model.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = linear_layers(model)
    for name in output_heads(model):
        head: Any = layers[name]
        head.weight.copy_(HEAD_STD * torch.randn(head.weight.shape, generator=generator))  # (classes, features)
        if head.bias is not None:
            head.bias.zero_()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and load reports off the screen; errors still come as exceptions."""
    logging = transformers.utils.logging
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
