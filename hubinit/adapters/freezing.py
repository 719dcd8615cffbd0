"""What a method keeps frozen, and freezing it again after a reload: PEFT stores no `requires_grad`.

Three places say what is frozen. `hubinit.json` names the method and its options. A mark in the saved configuration (see
`hubinit.adapters.mark`; for adapters that are not LoRA, an entry of `auto_mapping`, which PEFT rewrites for models without a
task) carries it into folders and Trainer checkpoints without a `hubinit.json`. In memory, PEFT's own list
(`frozen_peft_weight_names`) holds through `set_adapter`, `enable_adapter_layers` and the Trainer's resume.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, PeftType

from hubinit import methods
from hubinit.adapters.anchor import ADAPTER
from hubinit.adapters.base import adapted_layers
from hubinit.adapters.mark import set_mark
from hubinit.adapters.untrusted import read_json
from hubinit.errors import HubinitError
from hubinit.methods.spec import Method
from hubinit.records import MANIFEST

FROZEN = "hubinit_frozen"  # key in `auto_mapping`: parameter names, separated by commas
MARK = "hubinit-frozen-"  # before the parameter names, joined by hyphens, in a key of `alpha_pattern`
MARKED = re.compile(MARK + r"([A-Za-z_-]+)")
FREEZABLE = {"lora_B", *(method.a_parameter for method in methods.METHODS.values() if method.a_parameter)}


def frozen_factors(method: Method) -> tuple[str, ...]:
    """The parameters that a method never trains, such as `("lora_B",)`; what an optimiser freezes is not among them."""
    return () if method.train_b else ("lora_B",)


def frozen_by(method: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The same by the method's name and the options of a run; of a method that is not registered here, nothing.

    Runs and starts of before the optimisers were an axis may have the option `train_a`, which froze A.
    """
    try:
        found = methods.get(method)
    except HubinitError:
        return ()
    frozen_a = (found.a_parameter,) if options.get("train_a") is False and found.a_parameter else ()
    return (*frozen_a, *frozen_factors(found))


def freeze(peft_model: PeftModel, parameters: Iterable[str]) -> None:
    """Freezes parameters such as `lora_A` for good, in this model and in what is saved of it."""
    parameters = tuple(parameters)
    if not parameters:
        return
    for layer in adapted_layers(peft_model).values():
        own = [parameter for parameter in parameters if ADAPTER in getattr(layer, parameter, ())]
        frozen = layer.frozen_peft_weight_names.get(ADAPTER, ())
        names = tuple(dict.fromkeys((*frozen, *own)))
        layer.frozen_peft_weight_names = {**layer.frozen_peft_weight_names, ADAPTER: names}
        for parameter in own:
            getattr(layer, parameter)[ADAPTER].requires_grad_(False)
    config = peft_model.peft_config[ADAPTER]
    if isinstance(config, LoraConfig):
        set_mark(config, MARK + "-".join(parameters), min(adapted_layers(peft_model)))
    else:
        config.auto_mapping = {**(config.auto_mapping or {}), FROZEN: ",".join(parameters)}


def frozen_in(directory: Path, config: PeftConfig) -> tuple[str, ...]:
    """What the adapter in a folder keeps frozen, by its configuration or its `hubinit.json`; both may be from someone else."""
    marks = (found[1] for key in getattr(config, "alpha_pattern", None) or {} if (found := MARKED.search(str(key))))
    if (marked := next(marks, None)) is not None:
        return tuple(name for name in marked.split("-") if name in FREEZABLE)
    if isinstance(config.auto_mapping, dict) and FROZEN in config.auto_mapping:
        return tuple(name for name in str(config.auto_mapping[FROZEN]).split(",") if name in FREEZABLE)
    try:
        made = read_json(directory / MANIFEST)["result"]["spec"]["method"]
        frozen = frozen_by(made["name"], made["options"])
    except (HubinitError, KeyError, TypeError, AttributeError):
        return ()  # not of hubinit
    if config.peft_type == PeftType.LORA:  # as which NEAT's trained adapter is exported
        return tuple(name.replace("peanut_", "lora_") for name in frozen)
    return frozen
