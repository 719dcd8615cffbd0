"""Adapters on disk: the start point in the repo layout, and the exact plain LoRA of a trained adapter.

Both load with PEFT alone. The start point is the root (A₀, B₀) and, for residual methods, `anchor/` (A₀, −B₀):

    base = PeftModel.from_pretrained(base, repo, subfolder="anchor").merge_and_unload()
    model = PeftModel.from_pretrained(base, repo, is_trainable=True)

A trained adapter becomes one plain LoRA on the untouched base, with every scaling equal to 1:
A' = [A; A₀], B' = [s·B, −s·B₀] (rank 2r), or rank r where there is no anchor.
"""

import copy
import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import KasaLinearVariant, MiCALinearVariant
from peft.tuners.peanut.layer import PeanutLayer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers.activations import ACT2FN

from hubinit.adapters.anchor import ADAPTER, ANCHOR, Anchored, has_anchor
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.configs import lora_config, write_config
from hubinit.adapters.mark import read_mark
from hubinit.adapters.provenance import write_manifest
from hubinit.adapters.report import adapter_checksum
from hubinit.adapters.untrusted import CONFIG, WEIGHTS, read_header
from hubinit.errors import HubinitError
from hubinit.models.layers import base_of
from hubinit.paths import sha256_of
from hubinit.records import MANIFEST


@dataclass(frozen=True)
class SavedAdapter:
    """What was written."""

    directory: Path
    files: dict[str, str]  # path below the directory → sha256
    sha256: str  # of the adapter's weights
    bytes: int  # of all files
    rank: int  # the largest rank of a module; 0 when the adapter is not LoRA


def save_initialized(
    model: PeftModel, directory: str | Path, *, base: str | None = None, revision: str | None = None
) -> SavedAdapter:
    """Writes the start point of a model that `initialize` made and nobody has trained yet: root and, if needed, `anchor/`.

    Args:
        model: from `initialize`.
        directory: is created; files of an earlier adapter in it are replaced.
        base: Hub id of the base, for `adapter_config.json`. Default: where transformers loaded it from.
        revision: commit of the base. Default: the one transformers loaded.

    Raises:
        HubinitError: the adapter's weights are no longer those of step 0.
    """
    report = getattr(model, "hubinit_report", None)
    if report is not None and report.checksum != adapter_checksum(model):
        raise HubinitError(
            "this adapter has been trained: save_initialized writes the start point only. "
            "Call it before training, or use hubinit.export for the trained adapter."
        )
    directory = prepare(directory)
    config = _saved_config(model, ADAPTER, base, revision)
    _write(directory, _state(model, ADAPTER), config, model)
    if has_anchor(model):
        _write(directory / ANCHOR, _state(model, ANCHOR), _saved_config(model, ANCHOR, base, revision), model)
    return list_saved(directory, max(_ranks(model).values(), default=0))


def export(
    model: PeftModel, directory: str | Path, *, base: str | None = None, revision: str | None = None
) -> SavedAdapter:
    """Writes the trained adapter so that one line of plain PEFT loads it on the untouched base, exactly.

    Plain LoRA for every method but those that cannot be written as one (DoRA stays DoRA, `peft:<type>` stays what it is):
    rank r without an anchor and for NEAT (ΔWᵀ = s·σ(WᵀAᵀ)Bᵀ is linear in σ(·)), 2r with an anchor and for KaSA. Trained heads
    are included. The rank is uniform, as vLLM wants it, unless the method's ranks are not. `hubinit.json` beside it says where it
    comes from.

    Args:
        model: from `initialize` or `load_initialized`, trained or not; it is not changed.
        directory: is created; files of an earlier adapter in it are replaced.
        base: Hub id of the base, for `adapter_config.json`. Default: where transformers loaded it from.
        revision: commit of the base. Default: the one transformers loaded.

    Raises:
        HubinitError: the adapter has an anchor but no plain LoRA form, or it lost its anchor.
    """
    if read_mark(model.peft_config[ADAPTER]) is not None and not has_anchor(model):
        raise HubinitError(
            "this adapter was trained on a base with its anchor merged in, which the model in memory does not tell from the "
            "untouched base: save it with model.save_pretrained(DIR), then call hubinit.finish(DIR, START, OUT)."
        )
    directory = prepare(directory)
    state = _state(model, ADAPTER)
    factors = plain_factors(model)
    if not factors:
        if has_anchor(model):
            raise HubinitError("an adapter of this type with an anchor has no plain LoRA form and cannot be exported.")
        _write(directory, state, _saved_config(model, ADAPTER, base, revision), model)
        return _exported(model, directory, max(_ranks(model).values(), default=0))
    ranks = {name: A.shape[0] for name, (A, _) in factors.items()}
    tensors = {key: tensor for key, tensor in state.items() if "lora_" not in key and "peanut_" not in key}  # heads
    for name, (A, B) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A
        tensors[f"base_model.model.{name}.lora_B.weight"] = B
    own = model.peft_config[ADAPTER]
    config = lora_config(base_of(model), ranks, 1.0, rslora=False, modules_to_save=sorted(own.modules_to_save or ()))
    if own.peft_type == "LORA" and set(ranks) == set(adapted_layers(model)):
        config.target_modules = own.target_modules  # as short as PEFT made it
    _name_base(config, model, base, revision)
    _write(directory, tensors, config, model)
    return _exported(model, directory, max(ranks.values()))


@torch.no_grad()
def plain_factors(model: PeftModel) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Per module A' (r', n), B' (m, r') with ΔW = B'A' on the untouched base; None when there is no such form."""
    factors = {}
    for name, layer in adapted_layers(model).items():
        found = _layer_factors(layer)
        if found is None:
            return None
        factors[name] = found
    return factors


def _layer_factors(layer: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(layer, PeanutLayer):
        return _peanut_factors(layer)
    if not isinstance(layer, LoraLayer) or ADAPTER not in layer.lora_A:
        return None
    variant = layer.lora_variant.get(ADAPTER)
    inner = variant.inner if isinstance(variant, Anchored) else variant
    if not (inner is None or isinstance(inner, KasaLinearVariant | MiCALinearVariant)):
        return None
    A = layer.lora_A[ADAPTER].weight  # (r, n)
    B = layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]  # (m, r)
    if isinstance(inner, KasaLinearVariant):
        B = B * layer.lora_diag[ADAPTER]  # (m, r) · (r,): ΔW = s·B diag(d) A
    if ANCHOR in layer.lora_A:
        A = torch.cat([A, layer.lora_A[ANCHOR].weight])  # (2r, n)
        B = torch.cat([B, layer.lora_B[ANCHOR].weight * layer.scaling[ANCHOR]], dim=1)  # (m, 2r)
    return A.detach().clone(), B.detach().clone()


def _peanut_factors(layer: Any) -> tuple[Tensor, Tensor]:
    """NEAT (arXiv:2410.01870; PEANuT): ΔWᵀ = s·h Bᵀ with h = σ(WᵀAᵀ) and, for depth > 0, residual layers on h."""
    A = layer.peanut_A[ADAPTER].weight  # (r, m)
    activation = ACT2FN[layer.act_fn[ADAPTER]]
    hidden = activation(layer.get_base_layer().weight.T.to(A.dtype) @ A.T)  # (n, r)
    skipped = []
    for encoder in layer.peanut_encoders[ADAPTER]:
        skipped.append(hidden)
        hidden = activation(encoder(hidden))
    for decoder in layer.peanut_decoders[ADAPTER]:
        hidden = activation(decoder(hidden)) + skipped.pop()
    B = layer.peanut_B[ADAPTER].weight * layer.scaling[ADAPTER]  # (m, r)
    return hidden.T.contiguous(), B.clone()


def _ranks(model: PeftModel) -> dict[str, int]:
    layers = adapted_layers(model).items()
    return {name: layer.r[ADAPTER] for name, layer in layers if isinstance(layer, LoraLayer) and ADAPTER in layer.r}


def _state(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return state


def _saved_config(model: PeftModel, adapter: str, base: str | None, revision: str | None) -> PeftConfig:
    config = copy.deepcopy(model.peft_config[adapter])
    if isinstance(config, LoraConfig):
        config.init_lora_weights = True  # anything else would rewrite the base or the factors when PEFT loads it
    _name_base(config, model, base, revision)
    return config


def _name_base(config: PeftConfig, model: PeftModel, base: str | None, revision: str | None) -> None:
    config.base_model_name_or_path = base or base_of(model).__dict__.get("name_or_path") or None
    config.revision = revision or config.revision


def prepare(directory: str | Path) -> Path:
    """Takes the files of an earlier adapter out of a folder, which need not exist."""
    directory = Path(directory)
    for stale in (f"{ANCHOR}/{CONFIG}", f"{ANCHOR}/{WEIGHTS}", CONFIG, WEIGHTS, MANIFEST):
        (directory / stale).unlink(missing_ok=True)
    if (directory / ANCHOR).is_dir() and not any((directory / ANCHOR).iterdir()):
        (directory / ANCHOR).rmdir()
    return directory


def _write(directory: Path, state: dict[str, Tensor], config: PeftConfig, model: PeftModel) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    # Clones: safetensors refuses views and shared storage.
    tensors = {name: state[name].detach().to("cpu", copy=True).contiguous() for name in sorted(state)}
    write_tensors(tensors, directory / WEIGHTS)
    write_config(config, base_of(model), str(directory))  # last: PEFT looks for the configuration first


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file.

    Raises:
        OSError: the disk is full or refuses; safetensors' own error is not one and has the number in its text only.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def _exported(model: PeftModel, directory: Path, rank: int) -> SavedAdapter:
    saved = list_saved(directory, rank)
    write_manifest(model, directory, saved.files, saved.bytes, rank)
    return saved


def list_saved(directory: Path, rank: int) -> SavedAdapter:
    """Hashes and sizes of the adapter files in a folder."""
    paths = [directory / name for name in (CONFIG, WEIGHTS, f"{ANCHOR}/{CONFIG}", f"{ANCHOR}/{WEIGHTS}")]
    paths = [path for path in paths if path.is_file()]
    files = {path.relative_to(directory).as_posix(): sha256_of(path) for path in paths}
    return SavedAdapter(directory, files, files[WEIGHTS], sum(path.stat().st_size for path in paths), rank)


def head_size(weights: Path) -> int | None:
    """Classes of the head that is saved with a classifier's adapter; None without one.

    Raises:
        HubinitError: the file is damaged.
    """
    heads = (one.shape for name, one in read_header(weights).items() if name.endswith("classifier.weight"))
    return next((shape[0] for shape in heads if shape), None)
