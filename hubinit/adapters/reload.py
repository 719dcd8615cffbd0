"""Loading a start point or a checkpoint: the two lines of plain PEFT, without their traps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from hubinit.adapters.anchor import ANCHOR, add_anchor, anchor_config, fold_anchors, has_anchor, set_factors
from hubinit.adapters.base import adapted_layers, detach, remember_trainable
from hubinit.adapters.fitting import check_fits, check_loaded
from hubinit.adapters.freezing import freeze, frozen_in
from hubinit.adapters.mark import check_anchor_kept
from hubinit.adapters.passthrough import keep_base, rewrites_base
from hubinit.adapters.untrusted import A_END, B_END, CONFIG, HARMLESS_INITS, PREFIX, WEIGHTS, read_config
from hubinit.errors import HubError, HubinitError, first_line
from hubinit.models.layers import is_quantised, target_layers
from hubinit.records import MANIFEST
from hubinit.text import one_line

Pairs = dict[str, tuple[Tensor, Tensor]]  # module name → A (r, n), B (m, r)


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
        HubinitError: the folder holds no adapter, a damaged one, one for another base, or one that lost its anchor; or the
            model already carries one. The model is as before then.
    """
    if isinstance(model, PeftModel) or adapted_layers(model):
        raise HubinitError("this model already carries an adapter: call hubinit.detach(model) first.")
    directory = adapter_folder(source, revision)
    config = read_config(directory)
    check_anchor_kept(directory)
    anchored = (directory / ANCHOR / CONFIG).is_file()
    _settle_start(config, anchored, directory)
    own = check_fits(model, config, directory)
    anchor = _read_anchor(model, config, own, directory / ANCHOR) if anchored else None
    frozen = frozen_in(directory, config) if trainable else ()
    training = model.training
    remember_trainable(model)

    def attach() -> PeftModel:
        return PeftModel.from_pretrained(model, str(directory), config=config, is_trainable=trainable)

    try:
        targets = target_layers(model, config.target_modules) if rewrites_base(config) else {}
        peft_model = keep_base(model, targets, getattr(config, "r", 0), attach)
        check_loaded(peft_model, own, directory)
        if anchor is not None:
            _add_stored_anchor(peft_model, *anchor)
        freeze(peft_model, frozen)
    except HubinitError:
        detach(model)
        raise
    except Exception as error:  # whatever PEFT makes of a file of others
        detach(model)
        raise HubinitError(f"PEFT cannot load {directory} on this base: {one_line(first_line(error))}.") from error
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


def _settle_start(config: Any, anchored: bool, directory: Path) -> None:
    """Makes PEFT take the factors from the file, and leave the base alone.

    Raises:
        HubinitError: the configuration says that the base was rewritten, and no anchor says how.
    """
    start = getattr(config, "init_lora_weights", True)
    if start in HARMLESS_INITS:
        return
    if not anchored:
        raise HubinitError(
            f"{directory / CONFIG} cannot be used: init_lora_weights={one_line(start)!r} stands for a base with other weights "
            "than this one, and hubinit writes true; convert the adapter with peft first."
        )
    config.init_lora_weights = True


def _read_anchor(model: nn.Module, config: Any, own: Iterable[str], directory: Path) -> tuple[LoraConfig, Pairs]:
    """The anchor's configuration and factors, checked against base and adapter.

    Raises:
        HubinitError: it is damaged, or is not an anchor of this adapter.
    """
    anchor = read_config(directory)
    names = sorted(key.removeprefix(PREFIX).removesuffix(A_END) for key in own if key.endswith(A_END))
    if not (isinstance(config, LoraConfig) and isinstance(anchor, LoraConfig)):
        raise HubinitError(f"{directory} is not an anchor: it and its adapter must both be LoRA.")
    _settle_start(anchor, True, directory)
    check_fits(model, anchor_config(anchor, names), directory)
    state = load_file(directory / WEIGHTS)
    return anchor, {name: (state[f"{PREFIX}{name}{A_END}"], state[f"{PREFIX}{name}{B_END}"]) for name in names}


def _add_stored_anchor(peft_model: PeftModel, config: LoraConfig, factors: Pairs) -> None:
    if not has_anchor(peft_model):
        add_anchor(peft_model, factors, config)
        return
    for name, layer in adapted_layers(peft_model).items():  # PEFT rewrote the base once more: the stored one counts
        set_factors(layer, ANCHOR, *factors[name])


def _anchored(peft_model: PeftModel) -> list[Any]:
    return [layer for layer in adapted_layers(peft_model).values() if ANCHOR in getattr(layer, "lora_A", ())]


def _is_float32(peft_model: PeftModel) -> bool:
    bases = [layer.get_base_layer() for layer in _anchored(peft_model)]
    return all(not is_quantised(base) and base.weight.dtype in (torch.float32, torch.float64) for base in bases)
