"""What the ratios of `init_time.py` can be: multiplications counted from the layers' shapes, by what a method must multiply.

A multiply-add counts as two. Attention and the head are counted; softmax, norms and activations are not. They take time in the
bare pass, which every ratio is set against, so a measured ratio may lie up to a tenth below its count, and hardly more.

    python benchmarks/init_floor.py smollm2-135m llama3-8b
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from init_shapes import SHAPES


@dataclass(frozen=True)
class Shape:
    """The linear layers of a model as (m, n, shares its input with an earlier layer), and what surrounds them."""

    layers: tuple[tuple[int, int, bool], ...]
    hidden: int
    vocabulary: int
    blocks: int


def llama_shape(config: dict[str, int]) -> Shape:
    """The layers of a Llama by its configuration: q, k, v share their input, and gate and up share theirs."""
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    block = (
        (q, hidden, False),
        (kv, hidden, True),
        (kv, hidden, True),
        (hidden, q, False),
        (mlp, hidden, False),
        (mlp, hidden, True),
        (hidden, mlp, False),
    )
    blocks = config["num_hidden_layers"]
    return Shape(block * blocks, hidden, config["vocab_size"], blocks)


def linear(shape: Shape) -> float:
    """One product with every weight, per token."""
    return sum(2.0 * m * n for m, n, _ in shape.layers)


def around(shape: Shape, length: int) -> float:
    """The head and the attention of one forward pass, per token of a sequence."""
    return 2.0 * shape.hidden * shape.vocabulary + 4.0 * length * shape.hidden * shape.blocks


def forward(shape: Shape, length: int) -> float:
    """A forward pass, per token."""
    return linear(shape) + around(shape, length)


def bare(shape: Shape, length: int) -> float:
    """Forward and activation backward, per token: no product for weights; attention's backward is two of its forward."""
    attention = 4.0 * length * shape.hidden * shape.blocks
    return 2 * forward(shape, length) + attention


def input_moments(shape: Shape) -> float:
    """`XᵀX`, once for layers that share their input, per token; a general product, twice the symmetric one's count."""
    return sum(2.0 * n * n for _, n, shared in shape.layers if not shared)


def filet(shape: Shape, batch_tokens: int, *, budget: bool) -> float:
    """FILet's energies per token, each layer in its cheaper form; with a budget, the moments do not fit.

    Covariances: n² for the inputs (shared) and m² for the outputs. Streamed: one product with W for the inputs' side; for the
    outputs' side two more, or one with the Gram matrix of W, which is formed anew for every batch.
    """
    total = 0.0
    for m, n, shared in shape.layers:
        inputs = 2.0 * m * n
        gram = 2.0 * m * n * n / batch_tokens + 2.0 * n * n
        outputs = min(4.0 * m * n, gram)
        if not budget:
            inputs = min(inputs, 0.0 if shared else 2.0 * n * n)
            outputs = min(outputs, 2.0 * m * m)
        total += inputs + outputs
    return total


def floors(shape: Shape, length: int, batch_tokens: int, passes: int) -> dict[str, float]:
    """The counted value of each ratio.

    Args:
        shape: of the model.
        length: tokens of a sequence.
        batch_tokens: tokens of a batch.
        passes: of LoRA-DA's released code, the one for the gradient included.
    """
    one = bare(shape, length)
    gradient = linear(shape)
    every_input = sum(2.0 * n * n for _, n, _ in shape.layers)  # the released code shares none
    lora_da = one + input_moments(shape) + gradient
    released = passes * one + every_input + gradient
    output_moments = sum(2.0 * m * m for m, _, _ in shape.layers)
    union = one + input_moments(shape) + gradient + min(output_moments, filet(shape, batch_tokens, budget=True))
    headless = forward(shape, length) - 2.0 * shape.hidden * shape.vocabulary + input_moments(shape)
    return {
        "FILet ÷ bare pass": (one + filet(shape, batch_tokens, budget=False)) / one,
        "FILet with a budget ÷ bare pass": (one + filet(shape, batch_tokens, budget=True)) / one,
        "six methods in one pass ÷ bare pass": union / one,
        "LoRA-DA as released ÷ our one pass": released / lora_da,
        "forward pass without head, covariances (EVA, CorDA) ÷ bare pass": headless / one,
    }


def main(names: Sequence[str]) -> None:
    """Prints the counted ratios of the named shapes (default: all) as Markdown."""
    for name in names or SHAPES:
        shape = llama_shape(SHAPES[name])
        passes = -(-shape.blocks // 8) + 1
        print(f"\n{name}, sequences of 512, batches of 2,048 tokens\n\n| ratio | counted |\n|---|--:|")
        for what, ratio in floors(shape, 512, 2048, passes).items():
            print(f"| {what} | {ratio:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
