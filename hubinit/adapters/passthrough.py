"""Adapters that PEFT itself initialises, on a base that stays untouched.

Some of PEFT's initialisers rewrite the base's weights (KaSA truncates them; pissa, olora, corda subtract). Here the original
weights are put back afterwards and the difference, which has rank ≤ r, becomes a frozen anchor: the model computes the same,
exactly also in bf16, and the base can be used for the next run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from hubinit.adapters.anchor import ADAPTER, add_anchor
from hubinit.adapters.base import detach, remember_trainable
from hubinit.adapters.configs import base_revision, lora_config, task_type
from hubinit.errors import InitialisationError, first_line
from hubinit.methods.spec import Method, MethodOptions
from hubinit.models.layers import is_conv1d, is_quantised


def attach_config(
    model: nn.Module,
    method: Method,
    options: MethodOptions,
    layers: dict[str, nn.Module],
    modules_to_save: Sequence[str],
    *,
    rank: int,
    alpha: float,
    rslora: bool,
    dropout: float,
    seed: int,
) -> PeftModel:
    """Wraps `model` by the configuration that `method.peft_config` gives; the base's weights end as they were.

    Raises:
        InitialisationError: PEFT refuses this configuration on this model, or changed a weight by more than rank r.
    """
    config = configure(
        model, method, options, layers, modules_to_save, rank=rank, alpha=alpha, rslora=rslora, dropout=dropout
    )
    remember_trainable(model)

    def attach() -> PeftModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return get_peft_model(model, config, adapter_name=ADAPTER)

    def dropped(m: int, n: int) -> int:
        return rank if method.dropped is None else method.dropped(options, m, n, rank)

    try:
        return keep_base(model, layers if rewrites_base(config) else {}, rank, attach, dropped)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        detach(model)
        reason = first_line(error)
        raise InitialisationError(f"PEFT cannot attach {method.name} to this model: {reason}.") from error


def configure(
    model: nn.Module,
    method: Method,
    options: MethodOptions,
    layers: dict[str, nn.Module],
    modules_to_save: Sequence[str],
    *,
    rank: int,
    alpha: float,
    rslora: bool,
    dropout: float,
) -> Any:
    """The configuration that `method.peft_config` gives, as it is attached.

    Raises:
        InitialisationError: dropout where the method has none.
    """
    assert method.peft_config is not None
    config = method.peft_config(rank=rank, alpha=alpha, rslora=rslora, target_modules=list(layers), options=options)
    config.task_type, config.revision = task_type(model), base_revision(model)
    if dropout:
        if not hasattr(config, "lora_dropout"):
            raise InitialisationError(f"{method.name} has no dropout of LoRA's kind: leave lora_dropout at 0.")
        config.lora_dropout = dropout
    if modules_to_save:
        config.modules_to_save = list(modules_to_save)
    return config


def rewrites_base(config: Any) -> bool:
    """Whether PEFT may change the base's weights when it attaches an adapter of this configuration."""
    if not isinstance(config, LoraConfig):
        return False
    return isinstance(config.init_lora_weights, str) or getattr(config, "kasa_config", None) is not None


def keep_base(
    model: nn.Module,
    layers: dict[str, nn.Module],
    rank: int,
    attach: Callable[[], PeftModel],
    dropped: Callable[[int, int], int] | None = None,
) -> PeftModel:
    """Runs `attach`, puts the weights of `layers` back, and anchors what it had changed.

    Args:
        model: the untouched base.
        layers: the linear layers whose weights `attach` may rewrite; they are float32 copies while it runs, so that what it
            changes is not rounded (a second copy of these weights, for that time).
        rank: largest rank of a change.
        attach: wraps the base in a PeftModel.
        dropped: how many of the components that `attach` took from an (m, n) weight stay away, the smallest ones; the anchor
            gives the others back. Default: all.

    Raises:
        InitialisationError: a weight was changed by more than that rank.
    """
    training = model.training
    plain: dict[str, Any] = {name: layer for name, layer in layers.items() if not is_quantised(layer)}
    originals: dict[str, Tensor] = {name: layer.weight.data for name, layer in plain.items()}
    for layer in plain.values():
        layer.weight.data = layer.weight.data.to(
            torch.float64 if layer.weight.dtype == torch.float64 else torch.float32, copy=True
        )
    changes: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        peft_model = attach()
        for name, layer in plain.items():
            change = layer.weight.data - originals[name].to(layer.weight.dtype)
            if change.any():
                A, B = low_rank(change.T if is_conv1d(layer) else change, rank, name)  # (r, n), (m, r)
                if dropped is not None:
                    given_back = rank - dropped(B.shape[0], A.shape[1])
                    A[:given_back], B[:, :given_back] = 0, 0
                changes[name] = A, B
    finally:
        for name, layer in plain.items():
            layer.weight.data = originals[name]
    if changes:
        add_anchor(peft_model, changes, lora_config(model, dict.fromkeys(changes, rank), 1.0, rslora=False))
    peft_model.train(training)
    return peft_model


def low_rank(matrix: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor]:
    """Factors A (r, n), B (m, r) with B A = `matrix` (m, n), whose rank must be ≤ r up to rounding.

    Raises:
        InitialisationError: it is not.
    """
    n = matrix.shape[1]
    generator = torch.Generator(matrix.device).manual_seed(0)
    probe = torch.randn(n, min(n, rank + 8), dtype=matrix.dtype, device=matrix.device, generator=generator)  # (n, k)
    Q = torch.linalg.qr(matrix @ probe)[0]  # (m, k) spans the range of a matrix of such a rank
    U, S, Vh = torch.linalg.svd(Q.T @ matrix, full_matrices=False)  # (k, k), (k,), (k, n)
    U, S, Vh = Q @ U[:, :rank], S[:rank], Vh[:rank]  # (m, r), (r,), (r, n)
    left = float((matrix - (U * S) @ Vh).norm())
    if left > 1e-3 * float(S[0]) * min(matrix.shape) ** 0.5:  # rounding spreads over all directions
        raise InitialisationError(
            f"PEFT changed the weight of {name} by more than rank {rank}: it has no exact anchor."
        )
    root = S.sqrt()  # (r,)
    return root[:, None] * Vh, U * root
