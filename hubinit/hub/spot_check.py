"""A few questions asked again of the adapter that a stranger handed in, on its base."""

from collections.abc import Sequence
from statistics import median

from hubinit import tasks
from hubinit.adapters.untrusted import WEIGHTS
from hubinit.errors import HubinitError, first_line
from hubinit.hub.rescoring import UNREAD
from hubinit.leaderboard.submission import Submitted
from hubinit.paths import sha256_of
from hubinit.records import Item
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.target import Target, file_of, load_found
from hubinit.specs import LM_EVAL_PREFIX, NO_ADAPTER
from hubinit.text import one_line

BATCH = 4
TOLERANCE = 0.05  # of a log-likelihood, relative: another machine, or bfloat16, moves it by less
FEW = 0.2  # share of answers that rounding may turn


def spot_check(run: Submitted, adapter: str | None, count: int) -> None:
    """Lets the adapter answer the first questions of each task again; `wrong`, `notes` and `checks` say what came of it.

    Args:
        run: that was checked before.
        adapter: folder or repo; None where there is none.
        count: questions of each task.
    """
    assert run.result is not None
    spec = run.result.spec
    if adapter is None and spec.method.name not in NO_ADAPTER:
        run.notes.append("not spot-checked: there is no adapter to load")
        return
    asked = [(scores[0].eval, items) for scores, items in run.evaluations() if _can_ask(scores[0].task)]
    if not asked:
        run.notes.append("not spot-checked: none of its tasks can be asked again here")
        return
    try:
        if adapter is not None and sha256_of(file_of(adapter, WEIGHTS)) != run.result.adapter_sha256:
            raise HubinitError("its adapter is another one now.")
        found = Target(adapter or spec.model.id, spec.model, adapter is not None, "transformers")
        model, processor = load_found(found, [evaluation.task for evaluation, _ in asked])
        for evaluation, items in asked:
            limited = evaluation.model_copy(update={"limit": min(count, len(items))})
            scored = evaluate_one(model, processor, limited, batch_size=BATCH)
            _compare(run, evaluation.task, items, scored.items)
    except HubinitError as error:
        run.notes.append(one_line(f"not spot-checked: {first_line(error)}"))


def _can_ask(task: str) -> bool:
    return not task.startswith(LM_EVAL_PREFIX) and tasks.get(task).scorer not in UNREAD


def _compare(run: Submitted, task: str, stored: Sequence[Item], asked: Sequence[Item]) -> None:
    """Holds what was answered now against what was handed in."""
    by_id = {item.id: item for item in stored}
    pairs = [(by_id[item.id], item) for item in asked if item.id in by_id]
    if any(one.prompt_hash != other.prompt_hash for one, other in pairs):
        run.wrong.append(f"{task}: asked again, the prompts are not those of its items")
        return
    moved = [
        abs(old - new) / max(abs(new), 1.0)
        for one, other in pairs
        for old, new in zip(one.log_likelihoods, other.log_likelihoods, strict=False)
    ]
    turned = sum(one.values != other.values for one, other in pairs)
    if (moved and median(moved) > TOLERANCE) or turned > max(1, FEW * len(pairs)):
        how = f", log-likelihoods are off by {median(moved):.1%}" if moved else ""
        run.wrong.append(f"{task}: asked again, {turned} of {len(pairs)} answers have other values{how}")
        return
    same = f"{len(pairs) - turned} of {len(pairs)} questions asked again have the same values"
    run.checks.append(f"{task}: {same}" + (f", log-likelihoods within {max(moved):.1%}" if moved else ""))
