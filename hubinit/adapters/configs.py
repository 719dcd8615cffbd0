"""PEFT configurations that reload as they were saved, in any version order and on any machine."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, PeftConfig, TaskType
from torch import nn
from transformers.models.auto import modeling_auto

from hubinit.models.layers import is_conv1d, linear_layers, output_heads


def lora_config(
    model: nn.Module,
    ranks: dict[str, int],
    scaling: float,
    rslora: bool,
    modules_to_save: Sequence[str] = (),
    **kwargs: Any,
) -> LoraConfig:
    """A plain `LoraConfig` under which every module has scaling `s`.

    Args:
        model: the untouched base.
        ranks: module name → rank; ranks other than the commonest go to `rank_pattern` (and alpha with them).
        scaling: s of every module.
        rslora: write s as alpha / √r instead of alpha / r.
        modules_to_save: modules trained and saved in full.
        kwargs: further fields of `LoraConfig`, e.g. `use_dora`.
    """
    layers = linear_layers(model)
    fields: dict[str, Any] = {
        **rank_fields(ranks, scaling, rslora),
        "target_modules": list(ranks),
        "modules_to_save": list(modules_to_save) or None,
        "fan_in_fan_out": all(is_conv1d(layers[name]) for name in ranks),
        "task_type": task_type(model),
        "revision": base_revision(model),
        "init_lora_weights": True,
    }
    return LoraConfig(**(fields | kwargs))


def rank_fields(ranks: dict[str, int], scaling: float, rslora: bool) -> dict[str, Any]:
    """The fields of a `LoraConfig` that give every module its rank and the scaling `s`; arguments as for `lora_config`."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    # PEFT matches the keys as regular expressions `(.*\.)?(key)$`, the first match wins, and saving sorts them: "^" and
    # escaping make each key match its own module only, whatever the order.
    others = {"^" + re.escape(name): r for name, r in ranks.items() if r != rank}
    return {
        "r": rank,
        "lora_alpha": _alpha(scaling, rank, rslora),
        "rank_pattern": others,
        "alpha_pattern": {key: _alpha(scaling, r, rslora) for key, r in others.items()},
        "use_rslora": rslora,
    }


def _alpha(scaling: float, rank: int, rslora: bool) -> int | float:
    alpha = scaling * (rank**0.5 if rslora else rank)
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * max(1.0, alpha) else alpha


def task_type(model: nn.Module) -> TaskType | None:
    """PEFT's task type for language models; None for the rest, where PEFT's own wrappers would fix names and inputs."""
    name = type(model).__name__
    if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return TaskType.CAUSAL_LM
    if name in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
        return TaskType.SEQ_2_SEQ_LM
    return None


def base_revision(model: nn.Module) -> str | None:
    """The commit of the Hub repo that the base was loaded from, when transformers knows it."""
    revision = getattr(getattr(model, "config", None), "_commit_hash", None)
    return str(revision) if revision else None


def classification_heads(model: nn.Module) -> list[str]:
    """Top-level modules with the head of a classification model: new for every task, so trained and saved in full."""
    if "Classification" not in type(model).__name__:
        return []
    return sorted({name.split(".")[0] for name in output_heads(model)})


def write_config(config: PeftConfig, model: nn.Module, directory: str) -> None:
    """Writes `adapter_config.json`, byte for byte the same on every run (PEFT's own order of target modules is not)."""
    if isinstance(config.target_modules, set | list):
        config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    mapping = config.auto_mapping
    if config.task_type is None:  # what AutoPeftModel needs to find the base's class
        mapping = {
            **(mapping or {}),
            "base_model_class": type(model).__name__,
            "parent_library": type(model).__module__,
        }
    config.save_pretrained(directory, auto_mapping_dict=mapping)
