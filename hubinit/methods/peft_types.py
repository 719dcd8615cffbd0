"""`peft:<type>`: any other PEFT method by its own config, unchanged (`peft:vera`, `peft:miss`, …)."""

import dataclasses
from functools import partial
from typing import Any

from pydantic import ConfigDict, create_model

from hubinit.errors import HubinitError, nearest
from hubinit.methods.spec import Method, MethodOptions

# Initialisers of PEFT that need a pass of their own over the data, and what does the same here.
_NEED_DATA = {"eva": "eva", "corda": "corda", "lora_ga": "lora-ga"}
# Types whose random start is not the base (measured with PEFT 0.21.2's defaults); prompts move the output too.
_MOVED = frozenset({"c3a", "fourierft", "unilora", "vblora"})
# Fields that the run decides, not the options.
_OURS = frozenset(
    {"peft_type", "base_model_name_or_path", "revision", "peft_version", "inference_mode"}
    | {"auto_mapping", "target_modules", "use_rslora"}
)


class PeftOptions(MethodOptions):
    """Any field of the PEFT config by its name there; what is not given (or None) keeps PEFT's default."""

    model_config = ConfigDict(protected_namespaces=())


def build(name: str) -> Method:
    """The passthrough method `peft:<type>`.

    Args:
        name: `peft:` and a PEFT type in any case, such as `peft:vera`.

    Raises:
        HubinitError: PEFT has no such type (the message has the nearest ones), or it needs data of its own.
    """
    kind = name.removeprefix("peft:").lower()
    if kind in _NEED_DATA:
        raise HubinitError(
            f"'{name}' needs PEFT's own pass over the data and cannot be built from a config: use '{_NEED_DATA[kind]}'."
        )
    configs = _configs()
    if kind not in configs:
        raise HubinitError(f"PEFT has no type '{kind}': {nearest(kind, list(configs))}")
    fields: dict[str, Any] = dict.fromkeys(sorted(_fields(configs[kind]) - _OURS), (Any, None))
    return Method(
        name=f"peft:{kind}",
        title=f"{kind} (PEFT)",
        source=f"PEFT's {configs[kind].__name__}",
        start="shift" if kind in _MOVED or "num_virtual_tokens" in _fields(configs[kind]) else "keep",
        factors=None,
        options=create_model(f"{configs[kind].__name__}Options", __base__=PeftOptions, **fields),
        peft_config=partial(_peft_config, kind),
        a_parameter="lora_A" if kind in ("lora", "adalora") else None,
    )


def _peft_config(
    kind: str, *, rank: int, alpha: float, target_modules: Any, options: MethodOptions, rslora: bool = False
) -> Any:
    """The config with rank, alpha and targets under the names that this type has for them; options win."""
    config = _configs()[kind]
    run = {"r": rank, "init_r": rank, "target_r": rank, "lora_alpha": alpha, "alpha": alpha}
    run |= {"target_modules": target_modules, "use_rslora": rslora}
    if "init_r" in _fields(config) or "oft_block_size" in _fields(config):
        del run["r"]  # unused by AdaLoRA; the number of blocks, not a rank, in OFT
    given = {name: value for name, value in options.model_dump().items() if value is not None}
    values = {name: value for name, value in run.items() if name in _fields(config)} | given
    try:
        return config(**values)
    except (TypeError, ValueError) as error:
        raise HubinitError(f"PEFT refuses the options of 'peft:{kind}': {error}") from None


def _configs() -> dict[str, Any]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {str(kind.value).lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _fields(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config) if field.init}
