"""LoRA: A Kaiming-uniform, B zero (Hu et al., arXiv:2106.09685), and the methods that start from it."""

import math

import torch

from hubinit.methods.spec import Factors, Layer, Method, MethodOptions, finish


def factors(layer: Layer, options: MethodOptions) -> Factors:
    """`A ~ U(−1/√n, 1/√n)`, which is `kaiming_uniform_(a=√5)` of the released code and of PEFT; `B = 0`.

    Returns:
        A (r, n) and B (m, r).
    """
    m, n = layer.weight.shape
    A = layer.weight.new_empty(layer.rank, n)  # (r, n)
    torch.nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=layer.generator)
    return finish(layer, A, layer.weight.new_zeros(m, layer.rank))


METHOD = Method(
    name="lora",
    title="LoRA",
    source="LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685",
    start="keep",
    factors=factors,
)
