"""Loading a start point or a checkpoint: the two lines of plain PEFT, without their traps."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig, PeftModel, load_peft_weights
from torch import nn

from hubinit.adapters.anchor import ANCHOR, add_anchor, fold_anchors, has_anchor, set_factors
from hubinit.adapters.base import adapted_layers, remember_trainable
from hubinit.adapters.freezing import freeze, frozen_in
from hubinit.adapters.mark import check_anchor_kept
from hubinit.adapters.passthrough import keep_base, rewrites_base
from hubinit.adapters.saving import CONFIG, WEIGHTS
from hubinit.errors import HubError, HubinitError, first_line
from hubinit.models.layers import is_quantised, target_layers
from hubinit.records import MANIFEST


def load_initialized(
    model: nn.Module,
    source: str | Path,
    *,
    trainable: bool = True,
    merge_residual: bool | None = None,
    revision: str | None = None,
) -> PeftModel:
    """Loads what `save_initialized` wrote, or a Trainer checkpoint of an initialised model, with its anchor.

    Args:
        model: the untouched base, in any dtype or quantised; it is wrapped in place.
        source: a folder or a Hub repo.
        trainable: the adapter is to be trained (the anchor never is, and what the method froze stays frozen).
        merge_residual: fold the anchor into the base. Default: when the adapted weights are float32, where that is exact to
            rounding; a bfloat16 or quantised base keeps the frozen anchor, which is exact there too.
        revision: commit, branch or tag of the repo.

    Raises:
        HubError: the repo cannot be read.
        HubinitError: the folder holds no adapter or one that lost its anchor, or the model already carries one.
    """
    if isinstance(model, PeftModel) or adapted_layers(model):
        raise HubinitError("this model already carries an adapter: call hubinit.detach(model) first.")
    directory = adapter_folder(source, revision)
    check_anchor_kept(directory)
    try:
        config = PeftConfig.from_pretrained(str(directory))
    except (ValueError, TypeError, KeyError) as error:
        raise HubinitError(f"PEFT cannot read {directory / CONFIG}: {first_line(error)}.") from error
    if config.peft_type is None:
        raise HubinitError(f"{directory / CONFIG} names no peft_type: it is not an adapter's configuration.")
    frozen = frozen_in(directory, config) if trainable else ()
    training = model.training
    remember_trainable(model)

    def attach() -> PeftModel:
        return PeftModel.from_pretrained(model, str(directory), is_trainable=trainable)

    targets = target_layers(model, config.target_modules) if rewrites_base(config) else {}
    peft_model = keep_base(model, targets, getattr(config, "r", 0), attach)
    if (directory / ANCHOR / CONFIG).is_file():
        _load_anchor(peft_model, directory / ANCHOR)
    freeze(peft_model, frozen)
    peft_model.train(training)
    if has_anchor(peft_model) and (_is_float32(peft_model) if merge_residual is None else merge_residual):
        fold_anchors(peft_model)
    return peft_model


def adapter_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder of an adapter, fetched when `source` is a Hub repo.

    Raises:
        HubError: the repo cannot be read.
        HubinitError: it holds no adapter.
    """
    directory = Path(source)
    if not directory.is_dir():
        try:
            patterns = [CONFIG, WEIGHTS, f"{ANCHOR}/*", MANIFEST]
            directory = Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise HubError(
                f"{source} is neither a folder nor a Hub repo that can be read: {first_line(error)}."
            ) from error
    if not (directory / CONFIG).is_file():
        raise HubinitError(f"{source} holds no adapter: {CONFIG} is missing.")
    return directory


def _load_anchor(peft_model: PeftModel, directory: Path) -> None:
    state = load_peft_weights(str(directory), device="cpu")
    prefix, end = "base_model.model.", ".lora_A.weight"
    names = [key.removeprefix(prefix).removesuffix(end) for key in state if key.endswith(end)]
    factors = {name: (state[f"{prefix}{name}{end}"], state[f"{prefix}{name}.lora_B.weight"]) for name in names}
    if not has_anchor(peft_model):
        add_anchor(peft_model, factors, PeftConfig.from_pretrained(str(directory)))
        return
    for name, layer in adapted_layers(peft_model).items():  # PEFT rewrote the base once more: the stored one counts
        set_factors(layer, ANCHOR, *factors[name])


def _anchored(peft_model: PeftModel) -> list[Any]:
    return [layer for layer in adapted_layers(peft_model).values() if ANCHOR in getattr(layer, "lora_A", ())]


def _is_float32(peft_model: PeftModel) -> bool:
    bases = [layer.get_base_layer() for layer in _anchored(peft_model)]
    return all(not is_quantised(base) and base.weight.dtype in (torch.float32, torch.float64) for base in bases)
