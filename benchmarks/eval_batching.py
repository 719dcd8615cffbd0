"""Which answers change with the batch size: each task is scored in batches and one question at a time, in both types of weights.

    python benchmarks/eval_batching.py --model smollm2-135m --tasks arc-easy,gsm8k-lora-ga --limit 64

Padding and the shape of a matrix product change the order of additions, so log-likelihoods differ in their last bits, and a
choice or a token may flip where two were nearly equal. The margin says how nearly: the distance of the two best log-likelihoods.
"""

import argparse
import json
from collections.abc import Sequence

from hubinit import tasks
from hubinit.models.base import load
from hubinit.models.names import pin, resolve
from hubinit.records import Item
from hubinit.scoring.evaluate import evaluate_one
from hubinit.specs import EvalSpec


def main() -> None:
    """Prints one JSON line per task and type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="arc-easy,gsm8k-lora-ga")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    asked = parser.parse_args()
    for dtype in asked.dtypes.split(","):
        loaded = load(pin(resolve(asked.model).model_copy(update={"dtype": dtype})))
        for name in asked.tasks.split(","):
            evaluation = EvalSpec(task=name, revision=tasks.pin(name), limit=asked.limit)
            batched, single = (
                evaluate_one(loaded.model, loaded.processor, evaluation, batch_size=size)
                for size in (asked.batch_size, 1)
            )
            scores = {score.metric: score.value for score in batched.scores if score.primary}
            alone = {score.metric: score.value for score in single.scores if score.primary}
            found = compare(batched.items, single.items, next(iter(scores)))
            print(json.dumps({"task": name, "dtype": dtype, "batched": scores, "single": alone, **found}), flush=True)


def compare(batched: Sequence[Item], single: Sequence[Item], metric: str) -> dict[str, float | int | None]:
    """How many answers and verdicts differ, by how much log-likelihoods do, and the largest margin of an answer that changed."""
    pairs = list(zip(batched, single, strict=True))
    changed = [pair for pair in pairs if answer_of(pair[0]) != answer_of(pair[1])]
    gaps = [
        abs(one - other)
        for first, second in pairs
        for one, other in zip(first.log_likelihoods, second.log_likelihoods, strict=True)
    ]
    margins = [margin for _, item in changed if (margin := margin_of(item)) is not None]
    return {
        "n": len(pairs),
        "answers differ": len(changed),
        "verdicts differ": sum(one.values[metric] != other.values[metric] for one, other in pairs),
        "largest difference of a log-likelihood": max(gaps, default=None),
        "largest margin of a changed answer": max(margins, default=None),
    }


def answer_of(item: Item) -> object:
    """The likeliest choice, or what was written."""
    if item.log_likelihoods:
        return max(range(len(item.log_likelihoods)), key=item.log_likelihoods.__getitem__)
    return item.outputs


def margin_of(item: Item) -> float | None:
    """The distance of the two likeliest choices."""
    if len(item.log_likelihoods) < 2:
        return None
    best, second = sorted(item.log_likelihoods, reverse=True)[:2]
    return best - second


if __name__ == "__main__":
    main()
