"""Optimisers of a run: one frozen object each. A new one is one object and its row in `OPTIMISERS`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer, create_riemannian_optimizer
from peft.optimizers.lorafa import LoraFAOptimizer
from torch import Tensor

from hubinit import methods
from hubinit.errors import HubinitError, nearest
from hubinit.methods.spec import Method
from hubinit.specs import Recipe

A_PARAMETERS = sorted({method.a_parameter for method in methods.METHODS.values() if method.a_parameter})
Group = dict[str, Any]


@dataclass(frozen=True)
class Optimiser:
    """One way to step.

    Attributes:
        name: as in `--optimizers`.
        title: as printed.
        source: the paper or library.
        build: (model, learning rate, recipe) ─► torch's optimiser over what the model trains; it may freeze more of it.
        fits: whether it can train what a method starts.
        needs: what it takes to fit, as the end of "it needs …".
    """

    name: str
    title: str
    source: str
    build: Callable[[Any, float, Recipe], torch.optim.Optimizer]
    fits: Callable[[Method], bool] = lambda method: True
    needs: str = ""


class MatrixDecay(torch.optim.AdamW):
    """AdamW with torch's defaults; vectors (biases) do not decay."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        parameters = list(parameters)
        groups: list[Group] = [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], lr=lr)


def build_adamw(model: Any, learning_rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over everything that the model trains."""
    return MatrixDecay(trained(model).values(), learning_rate, recipe.weight_decay)


def build_frozen_a(model: Any, learning_rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over everything that the model trains but A, which stays as it started."""
    freeze_a(model)
    return build_adamw(model, learning_rate, recipe)


def build_lora_plus(model: Any, learning_rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW whose rate for B is a multiple of that for A; vectors have B's rate, as PEFT and the authors' code have it."""
    check_trains(model, "lora+", "lora_A", "lora_B")
    optimiser: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=learning_rate,
        loraplus_lr_ratio=recipe.lora_plus_ratio,
        loraplus_weight_decay=recipe.weight_decay,
    )
    return optimiser


def build_lora_fa(model: Any, learning_rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """PEFT's LoRA-FA: A frozen, Adam on `grad_B (A Aᵀ)⁻¹ / s²`, the gradient of B that brings s·B A nearest to W's own step.

    PEFT's helper takes every parameter whose name holds "lora" as one of a pair in the model's order. The frozen factors of an
    anchor would break its pairs, so they are made here, of the trained adapter alone; whatever else is trained gets PEFT's Adam.
    """
    check_trains(model, "lora-fa", "lora_A", "lora_B")
    freeze_a(model)
    every = dict(model.named_parameters())
    matrices: Group = {"params": [], "names": [], "scaling_factors": [], "weight_decay": recipe.weight_decay}
    vectors: Group = {"params": [], "names": [], "scaling_factors": [], "weight_decay": 0.0}
    for name, parameter in trained(model).items():
        module, is_b, adapter = name.removesuffix(".weight").rpartition(".lora_B.")
        group = matrices if parameter.ndim > 1 else vectors
        if is_b:
            name_of_a = name.replace(".lora_B.", ".lora_A.")
            group["params"] += [every[name_of_a], parameter]
            group["names"] += [name_of_a, name]
            group["scaling_factors"] += [model.get_submodule(module).scaling[adapter]] * 2
        else:
            group["params"].append(parameter)
            group["names"].append(name.replace("lora", ""))  # by this word PEFT knows the members of a pair
            group["scaling_factors"].append(None)
    optimiser: torch.optim.Optimizer = LoraFAOptimizer(
        [group for group in (matrices, vectors) if group["params"]], lr=learning_rate
    )
    return optimiser


def build_riemannian(model: Any, learning_rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW on `(BᵀB + δI)⁻¹ grad_A` and `grad_B (A Aᵀ + δI)⁻¹`; what else is trained gets its own gradient."""
    check_trains(model, "riemannian", "lora_A", "lora_B")
    optimiser: torch.optim.Optimizer = create_riemannian_optimizer(
        model, MatrixDecay, lr=learning_rate, reg=recipe.riemannian_damping, weight_decay=recipe.weight_decay
    )
    return optimiser


def trained(model: Any) -> dict[str, Tensor]:
    """What a model trains, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def freeze_a(model: Any) -> None:
    """Freezes every A that is trained.

    Raises:
        HubinitError: the model trains no A, or nothing else.
    """
    found = trained(model)
    factors = [found.pop(name) for name in list(found) if any(f".{a}." in name for a in A_PARAMETERS)]
    if not factors or not found:
        raise HubinitError("A cannot be frozen: the model trains either no A or nothing else; use the optimizer adamw.")
    for factor in factors:
        factor.requires_grad_(False)


def check_trains(model: Any, optimiser: str, *parameters: str) -> None:
    """Refuses a model for which an optimiser would silently be another one.

    Raises:
        HubinitError: the model does not train one of the parameters.
    """
    for parameter in parameters:
        if not any(f".{parameter}." in name for name in trained(model)):
            raise HubinitError(
                f"Optimizer '{optimiser}' needs a trained {parameter}, which this model lacks; use adamw instead."
            )


def has_lora_factors(method: Method) -> bool:
    """Whether a method trains LoRA's A and B, whatever else it trains."""
    return method.a_parameter == "lora_A" and method.train_b


def adds_product(method: Method) -> bool:
    """Whether what a method trains adds s·B A to a weight, with both factors trained."""
    return has_lora_factors(method) and method.factors is not None


OPTIMISERS: dict[str, Optimiser] = {
    optimiser.name: optimiser
    for optimiser in (
        Optimiser("adamw", "AdamW", "arXiv 1711.05101", build_adamw),
        Optimiser(
            "lora+",
            "LoRA+",
            "arXiv 2402.12354; peft.optimizers",
            build_lora_plus,
            has_lora_factors,
            "LoRA's A and B, both trained",
        ),
        Optimiser(
            "frozen-a",
            "AdamW with A frozen",
            "arXiv 2308.03303",
            build_frozen_a,
            lambda method: method.a_parameter is not None,
            "a method that can train without A",
        ),
        Optimiser(
            "lora-fa",
            "LoRA-FA, A frozen and the gradient of B projected",
            "arXiv 2308.03303; peft.optimizers",
            build_lora_fa,
            lambda method: (
                adds_product(method) and not method.lora_kwargs
            ),  # DoRA's magnitudes have no place in PEFT's pairs
            "a plain s·B A with B trained",
        ),
        Optimiser(
            "riemannian",
            "AdamW on Riemannian-preconditioned gradients",
            "arXiv 2402.02347; peft.optimizers",
            build_riemannian,
            adds_product,
            "a product B A with both factors trained",
        ),
    )
}


def get(name: str) -> Optimiser:
    """The optimiser with this name.

    Raises:
        HubinitError: there is not one; the message names the nearest.
    """
    if name not in OPTIMISERS:
        raise HubinitError(f"Unknown optimizer '{name}': {nearest(name, list(OPTIMISERS))}")
    return OPTIMISERS[name]


def check_fit(optimiser: Optimiser, method: Method) -> None:
    """Refuses an optimiser for a method whose start it cannot train.

    Raises:
        HubinitError: it does not fit.
    """
    if not optimiser.fits(method):
        raise HubinitError(
            f"Optimizer '{optimiser.name}' does not fit method '{method.name}': it needs {optimiser.needs}; "
            "leave one of the two out."
        )
