"""A base whose linear layers are held in 4 bits (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from hubinit.errors import HubinitError
from hubinit.models.kinds import KINDS
from hubinit.specs import ModelSpec


def check_quantisation(spec: ModelSpec) -> None:
    """Refuses a quantised base that cannot be had here; nothing for one that is not quantised.

    Raises:
        HubinitError: bitsandbytes is missing, or the model is not a language model.
    """
    if spec.quantize is None:
        return
    if KINDS[spec.kind].labelled:
        raise HubinitError(f"--quantize is for language models, and {spec.id} is {KINDS[spec.kind].noun}.")
    if find_spec("bitsandbytes") is None:
        raise HubinitError(
            f"--quantize {spec.quantize} needs bitsandbytes: pip install bitsandbytes (and a GPU: on a CPU it is slow)."
        )


def quantised_loading(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The arguments of `from_pretrained` that quantise while loading; none without `quantize`.

    As in QLoRA's paper: 4-bit NormalFloat, its scales quantised once more, products in the model's dtype.
    """
    if spec.quantize is None:
        return {}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_layout(model: nn.Module) -> None:
    """Keeps 4-bit weights on a CPU in the layout that has gradients.

    In evaluation bitsandbytes packs them anew for a faster kernel, for good: its products differ by rounding from those of
    training, and gradients through them fail.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
