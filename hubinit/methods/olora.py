"""OLoRA: orthonormal start from the QR factorisation of the weight (Büyükakyüz, arXiv:2406.01775)."""

import torch

from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish


def factors(layer: Layer, options: MethodOptions) -> Factors:
    """`B = Q[:, :r]`, `A = R[:r]` of `W = QR` (Algorithm 1, and PEFT's `olora`); not divided by s, as there.

    Householder QR fixes the first r columns of Q from the first r columns of W alone, so only those are factorised.

    Returns:
        A (r, n) and B (m, r), with the share of ‖W‖² that `BA` holds.
    """
    W = layer.weight  # (m, n)
    Q = torch.linalg.qr(W[:, : layer.rank])[0]  # (m, r)
    A = Q.T @ W  # (r, n)
    energy = float(W.square().sum())
    return finish(layer, A, Q, {"spectrum_share": float(A.square().sum()) / energy if energy else 0.0})


METHOD = Method(
    name="olora",
    title="OLoRA",
    source="OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, arXiv:2406.01775",
    start="keep",
    factors=factors,
    anchored=True,
)
