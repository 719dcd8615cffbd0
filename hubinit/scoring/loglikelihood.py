"""Log-likelihoods of continuations: what they have in common is computed once, and no logit is computed that nobody reads.

The choices of a question share its prompt. They are laid out as a tree in one row: the common beginning, then what is left of
each sequence, which attends to the beginning and to itself alone, at the positions that it would have by itself. The output
layer sees only the positions that predict a scored token.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hubinit.models.layers import base_of
from hubinit.scoring.batching import in_batches

MAX_LEAVES = 32  # sequences of one tree
Request = tuple[Sequence[int], int]  # the tokens of prompt and continuation, and how many at the end are scored
_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # base model ─► whether trees give its answers
Answer = tuple[float, bool]  # log-likelihood of the continuation, and whether each of its tokens is the likeliest


@dataclass(frozen=True)
class Leaf:
    """One sequence in a tree: the cells of the row that predict its scored tokens, and these tokens."""

    cells: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Sequences with a common beginning in one row; `branches` is 0 on the common part, else the number of the sequence."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    branches: tuple[int, ...]
    leaves: tuple[Leaf, ...]


def log_likelihoods(
    model: Any,
    requests: Sequence[Request],
    *,
    batch_size: int,
    share: bool = True,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[Answer]:
    """Scores the ends of sequences, in any order of them and any batch size but for rounding.

    Args:
        model: a causal language model, with or without PEFT adapters; the active ones count.
        requests: those with a common beginning next to each other.
        batch_size: sequences per forward pass; fewer where memory does not suffice.
        share: lay out sequences with a common beginning as trees. Without it every sequence has a row of its own.
        on_progress: called with the number of sequences after every forward pass.

    Returns:
        One answer per request, in their order.
    """
    groups = group(requests) if share else [range(index, index + 1) for index in range(len(requests))]
    trees = [(indices, plant([requests[index] for index in indices])) for indices in groups]
    trees.sort(key=lambda one: -len(one[1].tokens))
    answers: dict[int, Answer] = {}

    def answer(batch: Sequence[tuple[range, Tree]]) -> None:
        found = answer_trees(model, [tree for _, tree in batch])
        indices = [index for group_of, _ in batch for index in group_of]
        answers.update(zip(indices, found, strict=True))
        on_progress(len(indices))

    in_batches(trees, batch_size, answer, weight=lambda one: len(one[0]))
    return [answers[index] for index in range(len(requests))]


def can_share(model: Any, requests: Sequence[Request]) -> bool:
    """Whether trees give this model's own answers.

    A model may ignore positions or masks (ALiBi, state-space layers), look back only so far, or run on an attention kernel
    without masks. So a tree is tried against single sequences, once for each base in memory.
    """
    inner = base_of(model)
    config = model.config.get_text_config()
    longest = max((len(tokens) for tokens, _ in requests), default=0)
    window = getattr(config, "sliding_window", None) or longest
    takes_positions = "position_ids" in inspect.signature(inner.forward).parameters
    if not takes_positions or longest > window or "flash" in str(getattr(config, "_attn_implementation", "")):
        return False
    if inner not in _TRIED:
        several = [indices for indices in group(requests[:256]) if len(indices) > 1]
        if not several:
            return False
        tried = min(several, key=lambda indices: len(requests[indices.start][0]))
        _TRIED[inner] = agree(model, [requests[index] for index in tried[:4]])
    return _TRIED[inner]


def agree(model: Any, requests: Sequence[Request]) -> bool:
    """Whether one tree and single sequences give the same log-likelihoods."""
    together = torch.tensor([value for value, _ in answer_trees(model, [plant(requests)])])
    apart = torch.tensor([value for value, _ in log_likelihoods(model, requests, batch_size=1, share=False)])
    tolerance = 1e-3 if model.dtype == torch.float32 else 3e-2  # relative; a wrong mask is off by far more
    return bool(torch.allclose(together, apart, rtol=tolerance, atol=tolerance))


def group(requests: Sequence[Request]) -> list[range]:
    """Neighbours that share at least half of the shorter one's tokens."""
    groups: list[range] = []
    for index, (tokens, _) in enumerate(requests):
        if groups and len(groups[-1]) < MAX_LEAVES:
            first = requests[groups[-1].start][0]
            if 2 * common([first, tokens]) >= min(len(first), len(tokens)):
                groups[-1] = range(groups[-1].start, index + 1)
                continue
        groups.append(range(index, index + 1))
    return groups


def common(sequences: Sequence[Sequence[int]]) -> int:
    """The length of the common beginning."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False)))


def plant(requests: Sequence[Request]) -> Tree:
    """Lays out sequences in one row. The last token of each is only ever predicted, so it is left out."""
    inputs = [list(tokens[:-1]) for tokens, _ in requests]
    trunk = common(inputs)
    tokens, positions, branches = inputs[0][:trunk], list(range(trunk)), [0] * trunk
    leaves = []
    for number, ((whole, scored), own) in enumerate(zip(requests, inputs, strict=True), 1):
        start = len(tokens) - trunk  # cell of position i is i on the trunk, and start + i after it
        cells = [i if i < trunk else start + i for i in range(len(own) - scored, len(own))]
        leaves.append(Leaf(tuple(cells), tuple(whole[-scored:])))
        tokens += own[trunk:]
        positions += range(trunk, len(own))
        branches += [number] * (len(own) - trunk)
    return Tree(tuple(tokens), tuple(positions), tuple(branches), tuple(leaves))


def answer_trees(model: Any, trees: Sequence[Tree]) -> list[Answer]:
    """One forward pass; the answers of the leaves of all trees, in their order."""
    longest = max(len(tree.tokens) for tree in trees)
    device = next(model.parameters()).device
    read = [row * longest + cell for row, tree in enumerate(trees) for leaf in tree.leaves for cell in leaf.cells]
    inputs = {"input_ids": padded([tree.tokens for tree in trees], longest, device)}  # (B, T)
    if any(len(tree.leaves) > 1 for tree in trees):
        inputs["position_ids"] = padded([tree.positions for tree in trees], longest, device)  # (B, T)
        branches = padded([tree.branches for tree in trees], longest, device)  # (B, T)
        inputs["attention_mask"] = tree_mask(branches, model.dtype)  # (B, 1, T, T)
    # Rows of single sequences need no mask: causal attention never looks at the padding on their right.
    with torch.no_grad(), only_cells(model, torch.tensor(read, device=device)):
        logits = model(**inputs, use_cache=False).logits[0]  # (cells, V)
    targets = torch.tensor([token for tree in trees for leaf in tree.leaves for token in leaf.targets], device=device)
    values, likeliest = score_targets(logits, targets)
    sizes = [len(leaf.targets) for tree in trees for leaf in tree.leaves]
    return [
        (float(value.sum()), bool(top.all()))
        for value, top in zip(values.split(sizes), likeliest.split(sizes), strict=True)
    ]


def padded(rows: Sequence[Sequence[int]], longest: int, device: torch.device) -> Tensor:
    """Rows filled up with zeros on the right: (rows, longest)."""
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def tree_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive attention mask of trees: earlier cells, on the trunk or on the same branch.

    Args:
        branches: number of the branch of each cell, 0 on the trunk, (B, T).
        dtype: of the model.

    Returns:
        0 or the lowest number, (B, 1, T, T).
    """
    length = branches.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()  # (T, T)
    related = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])  # (B, T, T)
    blocked = ~(earlier & related)[:, None]  # (B, 1, T, T)
    return torch.zeros(blocked.shape, dtype=dtype, device=branches.device).masked_fill_(blocked, torch.finfo(dtype).min)


@contextmanager
def only_cells(model: Any, cells: Tensor) -> Iterator[None]:
    """Lets the output layer see only these cells of the flattened batch, as one sequence: (1, cells, V) logits."""

    def select(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[cells][None], *inputs[1:])  # (1, cells, n)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def score_targets(logits: Tensor, targets: Tensor, chunk: int = 256) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens in float32, and whether each is the likeliest; never more than a chunk in float32.

    Args:
        logits: (cells, V).
        targets: (cells,).
        chunk: cells at a time.

    Returns:
        Two tensors, (cells,).
    """
    values, likeliest = [], []
    for part, tokens in zip(logits.split(chunk), targets.split(chunk), strict=True):
        wide = part.float()  # (chunk, V)
        values.append(wide.gather(1, tokens[:, None])[:, 0] - wide.logsumexp(-1))  # (chunk,)
        likeliest.append(part.argmax(-1) == tokens)  # (chunk,)
    return torch.cat(values).cpu(), torch.cat(likeliest).cpu()
