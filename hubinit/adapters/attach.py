"""`initialize`: compute the factors of a method and attach them to a model, ready to train."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from hubinit import methods
from hubinit.adapters.anchor import ADAPTER, add_anchor, fold_anchors, has_anchor, set_factors
from hubinit.adapters.base import adapted_layers, is_residual, remember_trainable, tied_layers
from hubinit.adapters.configs import classification_heads, lora_config
from hubinit.adapters.freezing import freeze, frozen_factors
from hubinit.adapters.passthrough import attach_config
from hubinit.adapters.report import InitReport, ModuleReport, adapter_checksum
from hubinit.adapters.solving import solve
from hubinit.calibration.engine import calibrate
from hubinit.calibration.result import Calibration
from hubinit.errors import CalibrationError, InitialisationError
from hubinit.methods.spec import Method, MethodOptions
from hubinit.models.layers import is_quantised, left_out, shape_of, target_layers
from hubinit.specs import default_alpha


def initialize(
    model: nn.Module,
    method: str | Method,
    *,
    rank: int,
    alpha: float | None = None,
    calibration: Calibration | None = None,
    batches: Iterable[dict[str, Tensor]] | None = None,
    target_modules: str | Sequence[str] = "all-linear",
    modules_to_save: Sequence[str] | None = None,
    rslora: bool = False,
    lora_dropout: float = 0.0,
    seed: int = 0,
    merge_residual: bool = False,
    population: int | None = None,
    **options: Any,
) -> PeftModel:
    """Attaches an adapter whose initial factors come from `method`; the result is ready to train.

    The base's weights stay as they are (`merge_residual=False`): methods that start at the base with s·B₀A₀ ≠ 0 get a frozen
    anchor (see `hubinit.adapters.anchor`). Factors are float32 (float64 for a float64 model), whatever the model's dtype, and
    depend on the seed and the module's name only, not on the order of the modules.

    Args:
        model: any transformers model with `nn.Linear` or `Conv1D` layers; it is wrapped in place, `detach` gives it back.
        method: a name in `hubinit.METHODS`, `peft:<type>`, or a `Method`.
        rank: r; at most min(m, n) of every adapted layer. Methods that redistribute ranks (EVA) keep its total.
        alpha: s = alpha / r (rsLoRA: alpha / √r). Default 2·rank, the commonest choice of the published recipes
            (LLM-Adapters, LoRA-GA, LoRA-One, LoRA-DA); PiSSA's and MiLoRA's papers use alpha = rank. A layer whose rank was
            redistributed keeps the same s.
        calibration: statistics for data-aware methods, from `hubinit.calibrate` on this model.
        batches: calibration batches, used when no `calibration` is given.
        target_modules: `"all-linear"`, a regular expression for whole names, or names and endings.
        modules_to_save: further modules to train and save in full. Default: the head of a classification model.
        rslora: s = alpha / √r.
        lora_dropout: probability with which training drops entries of the adapter's input: s·B A dropout(x). The base and an
            anchor see the whole x, as in the sources, whose base holds the residual W − s·B₀A₀.
        seed: of everything random.
        merge_residual: fold the anchor into the base, which must be float32: one adapter less in every forward pass, for a
            copy of the adapted weights in host memory. The base then refuses to be saved; `detach` restores it exactly.
        population: length of the training set, for methods that weigh their estimates by it (LoRA-DA, whose option
            `population_size` wins); None: unknown.
        options: the method's own options.

    Returns:
        A PeftModel with an `InitReport` at `.hubinit_report`.

    Raises:
        InitialisationError: the method cannot initialise this model with these inputs; the model is left as it was.
    """
    started = time.perf_counter()
    _check_base(model)
    method, parsed = _resolve(method, options)
    alpha = default_alpha(rank) if alpha is None else float(alpha)
    layers = target_layers(model, target_modules)
    unused = left_out(model) if target_modules == "all-linear" else {}
    check_rank(rank, alpha, layers)
    scaling = alpha / math.sqrt(rank) if rslora else alpha / rank
    heads = list(modules_to_save) if modules_to_save is not None else classification_heads(model)
    report: dict[str, Any] = {
        "method": method.name,
        "options": parsed.model_dump(mode="json"),
        "start": method.start,
        "rank": rank,
        "alpha": alpha,
        "rslora": rslora,
        "seed": seed,
    }
    modules: dict[str, ModuleReport] = {}
    if method.factors is None:
        if merge_residual:
            _check_merge(layers)
        peft_model = attach_config(
            model, method, parsed, layers, heads, rank=rank, alpha=alpha, rslora=rslora, dropout=lora_dropout, seed=seed
        )
        anchor = has_anchor(peft_model)
    else:
        calibration = _calibration(model, method, parsed, calibration, batches, target_modules, seed)
        solved = solve(
            method,
            parsed,
            layers,
            rank=rank,
            scaling=scaling,
            seed=seed,
            calibration=calibration,
            population=population,
        )
        modules = {name: report for name, (_, report) in solved.items()}
        unused |= {name: "the redistribution of ranks left it rank 0" for name in layers if name not in solved}
        anchor = method.anchored
        if anchor and merge_residual:
            _check_merge(layers)
        ranks = {name: module.rank for name, module in modules.items()}
        config = lora_config(model, ranks, scaling, rslora, heads, lora_dropout=lora_dropout, **method.lora_kwargs)
        peft_model = attach_factors(model, config, {name: (f.A, f.B) for name, (f, _) in solved.items()}, anchor=anchor)
    if anchor and merge_residual:
        fold_anchors(peft_model)
    settle_magnitudes(peft_model)
    freeze(peft_model, frozen_factors(method))
    peft_model.hubinit_report = InitReport(
        **report,
        anchor="none" if not anchor else "merged" if merge_residual else "active",
        trainable_parameters=sum(p.numel() for p in peft_model.parameters() if p.requires_grad),
        seconds=time.perf_counter() - started,
        modules=modules,
        left_out=unused,
        tied=tuple(sorted(tied_layers(peft_model))),
        checksum=adapter_checksum(peft_model),
    )
    return peft_model


def attach_factors(
    model: nn.Module, config: LoraConfig, factors: dict[str, tuple[Tensor, Tensor]], *, anchor: bool
) -> PeftModel:
    """Wraps `model` in a PeftModel whose adapter holds the given factors (name → A (r, n), B (m, r)).

    Args:
        model: the untouched base, wrapped in place.
        config: `lora_config` for these factors.
        factors: initial A₀, B₀ of every target.
        anchor: add the frozen adapter (A₀, −B₀), so that the start is the base.
    """
    training = model.training
    remember_trainable(model)
    peft_model = get_peft_model(model, config, adapter_name=ADAPTER)
    for name, layer in adapted_layers(peft_model).items():
        set_factors(layer, ADAPTER, *factors[name])
    if anchor:
        add_anchor(peft_model, {name: (A, -B) for name, (A, B) in factors.items()}, config)
    peft_model.train(training)
    return peft_model


def settle_magnitudes(peft_model: PeftModel) -> None:
    """Computes DoRA's magnitudes ‖W‖ anew, in the factors' dtype.

    PEFT computes them while the factors still have the base's dtype. From a bfloat16 base they are then bfloat16 numbers, up to
    2⁻⁹ off, and divided by the float32 norms of the forward pass they do not start at the base.
    """
    for layer in adapted_layers(peft_model).values():
        if ADAPTER in getattr(layer, "lora_magnitude_vector", ()):
            layer.lora_magnitude_vector[ADAPTER].update_layer(
                base_layer=layer.get_base_layer(),
                lora_A=layer.lora_A[ADAPTER].weight,
                lora_B=layer.lora_B[ADAPTER].weight,
                scaling=layer.scaling[ADAPTER],
            )


def _resolve(method: str | Method, options: dict[str, Any]) -> tuple[Method, MethodOptions]:
    found = methods.get(method) if isinstance(method, str) else method
    return found, methods.parse_options(found, options)


def _check_base(model: nn.Module) -> None:
    if isinstance(model, PeftModel) or adapted_layers(model):
        raise InitialisationError("this model already carries an adapter: call hubinit.detach(model) first.")
    if is_residual(model):
        raise InitialisationError("this base holds a residual, not the original weights: load it again.")


def check_rank(rank: int, alpha: float, layers: Mapping[str, nn.Module]) -> None:
    """Checks a rank and alpha against the layers they are for.

    Raises:
        InitialisationError: alpha is not positive, or the rank lies outside 1…min(m, n) of a layer.
    """
    if rank < 1 or not alpha > 0:
        raise InitialisationError(f"rank must be at least 1 and alpha positive (got rank {rank}, alpha {alpha:g}).")
    name, (m, n) = min(((name, shape_of(layer)) for name, layer in layers.items()), key=lambda found: min(found[1]))
    if rank > min(m, n):
        raise InitialisationError(
            f"rank {rank} is above min(m, n) of {name} ({m}×{n}): choose rank ≤ {min(m, n)} or leave it out of the targets."
        )


def _check_merge(layers: dict[str, Any]) -> None:
    for name, layer in layers.items():
        dtype = layer.weight.dtype
        if is_quantised(layer) or dtype not in (torch.float32, torch.float64):
            raise InitialisationError(
                f"merge_residual=True needs a float32 base, and {name} is {'quantised' if is_quantised(layer) else dtype}: "
                "load the base in float32, or leave merge_residual off (the frozen anchor is exact in every dtype)."
            )


def _calibration(
    model: nn.Module,
    method: Method,
    parsed: MethodOptions,
    calibration: Calibration | None,
    batches: Iterable[dict[str, Tensor]] | None,
    target_modules: str | Sequence[str],
    seed: int,
) -> Calibration | None:
    """The calibration to use: None for weight-only methods, the given one after its check, or one from `batches`."""
    statistics = method.statistics(parsed)
    if not statistics:
        return None
    if calibration is None:
        if batches is None:
            raise CalibrationError(
                f"{method.name} is data-aware: give calibration=hubinit.calibrate(model, batches, methods=[{method.name!r}]) "
                "or batches=…"
            )
        return calibrate(model, batches, statistics=statistics, target_modules=target_modules, seed=seed)
    calibration.check(model, statistics)
    return calibration
