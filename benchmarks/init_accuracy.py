"""Do the fast solves find the same subspaces? Largest principal angles to an exact float64 solve and to PEFT's solvers.

Checked on the target layers of one block. The inputs of EVA and CorDA are collected here, apart from the calibration, in
float64, so the angles cover its sums as well. PEFT's CorDA scales every example by its maximum and its EVA stops by a
convergence rule; PEFT's *solvers* are given the same covariance and the same tokens, so that only the solving differs.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from init_shapes import Subject, block_modules
from torch import Tensor

from hubinit import methods
from hubinit.adapters.solving import generator_for
from hubinit.calibration.passes import to_model
from hubinit.methods.spec import Factors, Layer
from hubinit.models.layers import target_layers, weight_of

GAP = 1e-3  # relative distance of the singular values on both sides of the cut, below which a subspace is not defined
Spans = list[Tensor]  # matrices whose columns span a subspace: right, and left where the method has one


def agreement(subject: Subject, calibration: Any, rank: int, peft_pissa: dict[str, Spans]) -> list[dict[str, Any]]:
    """One row per method and layer of the middle block.

    Args:
        subject: model and batches; the calibration is of these batches.
        calibration: with EVA's and CorDA's statistics.
        rank: r.
        peft_pissa: `factors_of` PEFT's own `pissa`; empty when it was not measured.

    Returns:
        Rows with the angles (radians) of ours and PEFT's to the exact solve, and the relative gap at the cut.
    """
    model = subject.model
    block = subject.facts["blocks"] // 2
    names = block_modules(model, block)
    layers = target_layers(model)
    rows = []
    inputs = _inputs(model, subject.batches, names)
    for name in names:
        weight = weight_of(layers[name], name)  # (m, n) float32
        layer = Layer(name, weight, rank, 2.0, generator_for(0, name, weight.device), calibration.layers[name])
        U, S, Vh = _svd(weight.double())
        X = inputs[name]  # (T, n)
        for method, solve in _exact(weight, X, (U, S, Vh), rank).items():
            spans, gap = solve()
            ours = _ours(layer, method)
            peft = _peft(method, layers[name], name, X, rank, peft_pissa)
            rows.append(
                {
                    "method": method,
                    "layer": name,
                    "gap": gap,
                    "defined": gap >= GAP,
                    "ours_exact": _angle(ours, spans),
                    "peft_exact": _angle(peft, spans) if peft else None,
                    "ours_peft": _angle(ours, peft) if peft else None,
                }
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest angles of each method over the layers where the subspace is defined."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        clear = [row for row in mine if row["defined"]]
        worst = {
            key: max((row[key] for row in clear if row[key] is not None), default=None)
            for key in ("ours_exact", "peft_exact", "ours_peft")
        }
        found.append({"method": method, "layers": len(mine), "with_gap": len(clear), **worst})
    return found


def factors_of(peft_model: Any, names: list[str]) -> dict[str, Spans]:
    """The spans of a PeftModel's adapters at these layers."""
    layers = {name: peft_model.base_model.model.get_submodule(name) for name in names}
    return {
        name: [layer.lora_A["default"].weight.detach().T, layer.lora_B["default"].weight.detach()]
        for name, layer in layers.items()
    }


def _exact(
    weight: Tensor, X: Tensor, svd: tuple[Tensor, Tensor, Tensor], rank: int
) -> dict[str, Callable[[], tuple[Spans, float]]]:
    """Float64 solves: spans and relative gap at the cut."""
    U, S, Vh = svd
    k = len(S)

    def pissa() -> tuple[Spans, float]:
        return [Vh[:rank].T, U[:, :rank]], float(S[rank - 1] / S[rank] - 1)

    def milora() -> tuple[Spans, float]:
        return [Vh[k - rank :].T, U[:, k - rank :]], float(S[k - rank - 1] / S[k - rank] - 1)

    def eva() -> tuple[Spans, float]:
        centred = X - X.mean(0)  # (T, n)
        values, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
        return [vectors[:, -rank:]], float((values[-rank] / values[-rank - 1]).sqrt() - 1)

    def corda() -> tuple[Spans, float]:
        C = _damped(X.T @ X / len(X))  # (n, n)
        left, values, right = _svd(weight.double() @ C)
        return [torch.linalg.solve(C, right[:rank].T), left[:, :rank]], float(values[rank - 1] / values[rank] - 1)

    return {"pissa": pissa, "milora": milora, "eva": eva, "corda": corda}


def _ours(layer: Layer, method: str) -> Spans:
    found = methods.get(method)
    options = {"rho": 1} if method == "eva" else {}
    assert found.factors is not None
    factors: Factors = found.factors(layer, methods.parse_options(found, options))
    return [factors.A.T, *([factors.B] if factors.B.any() else [])]


def _peft(method: str, module: Any, name: str, X: Tensor, rank: int, pissa: dict[str, Spans]) -> Spans | None:
    """PEFT's solver on the same weight, covariance or tokens."""
    if method == "pissa":
        return pissa.get(name)
    if method == "eva":
        from peft.utils.incremental_pca import IncrementalPCA

        pca = IncrementalPCA(n_components=rank).partial_fit(X.float())
        return [pca.components_.T]
    if method == "corda":
        from peft.tuners.lora.corda import collect_eigens_for_layer

        stand_in = torch.nn.Linear(1, 1, bias=False)
        stand_in.weight = module.weight
        stand_in.covariance_matrix = (X.T @ X / len(X)).float()
        eigens = collect_eigens_for_layer(stand_in, SimpleNamespace())  # type: ignore[arg-type]
        return [eigens.V_WC[:, :rank].to(X.device), eigens.U_WC[:, :rank].to(X.device)]
    return None


def _damped(moment: Tensor) -> Tensor:
    return moment + 0.01 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Full thin SVD; a QR first, which makes tall and wide matrices square."""
    if matrix.shape[0] < matrix.shape[1]:
        U, S, Vh = _svd(matrix.T)
        return Vh.T, S, U.T
    Q, R = torch.linalg.qr(matrix)
    U, S, Vh = torch.linalg.svd(R)
    return Q @ U, S, Vh


def _angle(a: Spans, b: Spans) -> float:
    """The largest principal angle (radians) over the pairs of spans; exact also where it is tiny."""
    worst = 0.0
    for x, y in zip(a, b, strict=False):
        P, Q = torch.linalg.qr(x.double())[0], torch.linalg.qr(y.double())[0]  # (n, r)
        sine = torch.linalg.matrix_norm(P - Q @ (Q.T @ P), 2)
        worst = max(worst, float(sine.clamp(max=1).asin()))
    return worst


def _inputs(model: Any, batches: list[dict[str, Tensor]], names: list[str]) -> dict[str, Tensor]:
    """Every attended token's input (T, n) of these layers in float64; layers that share an input share it."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    layers = target_layers(model)
    handles = [
        layers[name].register_forward_pre_hook(lambda module, args, name=name: kept[name].append(args[0].detach()))
        for name in names
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                model(
                    **to_model(model, {key: value for key, value in batch.items() if key != "labels"}), use_cache=False
                )
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat([x.reshape(-1, x.shape[-1]) for x in parts]).double() for name, parts in kept.items()}
