"""One adapter after another on the same base: the next one's factors are written over the last one's, which takes a fraction of
the time that PEFT needs to take the last one off and to build the next one.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn

from hubinit.adapters.anchor import ANCHOR, has_anchor
from hubinit.adapters.base import detach
from hubinit.adapters.fitting import compare
from hubinit.adapters.reload import adapter_folder, load_initialized
from hubinit.adapters.untrusted import (
    CONFIG,
    HARMLESS_INITS,
    WEIGHTS,
    check_files,
    check_finite,
    read_config,
    read_header,
)
from hubinit.errors import HubinitError

# What of a configuration says nothing about the tensors and what is computed with them.
BOOKKEEPING = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_version", "revision",
}  # fmt: skip


def next_adapter(model: nn.Module, source: str | Path) -> PeftModel:
    """The base with the adapter in `source`, for use and not for training; whatever adapter was on the base is gone.

    Args:
        model: the base, or what the last call returned.
        source: a folder or a Hub repo.

    Raises:
        HubError: the repo cannot be read.
        HubinitError: as `load_initialized`; the base carries no adapter then.
    """
    directory = adapter_folder(source)
    try:
        if isinstance(model, PeftModel) and alike(model, directory):
            overwrite(model, directory)
            return model
    except HubinitError:
        detach(model)
        raise
    base = detach(model)
    return load_initialized(base, directory, trainable=False)


def alike(model: PeftModel, directory: Path) -> bool:
    """Whether an adapter differs from the one on the model in its numbers only: both are plain LoRA of the same layers."""
    mine, theirs = model.peft_config["default"], read_config(directory)
    if not (isinstance(mine, LoraConfig) and isinstance(theirs, LoraConfig)):
        return False
    if has_anchor(model) or (directory / ANCHOR / CONFIG).is_file() or mine.modules_to_save or mine.kasa_config:
        return False
    return theirs.init_lora_weights in HARMLESS_INITS and settings(mine) == settings(theirs)


def settings(config: LoraConfig) -> dict[str, Any]:
    """What decides the tensors of an adapter and how they are used."""
    values = {name: value for name, value in config.to_dict().items() if name not in BOOKKEEPING}
    return {name: sorted(value) if isinstance(value, list | set) else value for name, value in values.items()}


def overwrite(model: PeftModel, directory: Path) -> None:
    """Writes an adapter's tensors over those of the adapter on the model.

    Raises:
        HubinitError: a file is missing or damaged, or a tensor does not fit.
    """
    check_files(directory)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)  # the parameters' own memory
    compare(read_header(directory / WEIGHTS), state, directory)
    check_finite(directory / WEIGHTS)
    with safe_open(directory / WEIGHTS, framework="pt") as file, torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(file.get_tensor(name))
