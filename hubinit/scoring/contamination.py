"""Test items that occur in what a run was trained on: counted, marked, and left out of a second score."""

from collections.abc import Sequence
from dataclasses import replace

from hubinit.records import Item, Score
from hubinit.scoring.outputs import questions_of
from hubinit.scoring.spec import Scored, invalid_share, mean_score
from hubinit.specs import DataSpec, EvalSpec
from hubinit.tasks import get
from hubinit.tasks.questions import key_of, keys_of_training

UNSEEN = "unseen"  # the filter of a metric without the items that were trained on


def mark_seen(scored: Scored, evaluation: EvalSpec, data: DataSpec) -> Scored:
    """Marks the items whose question and right answer are in the training splits that a run draws from.

    The whole splits count, whichever of their rows the run's seed and number of examples chose: so the clean items are the
    same for all runs of a comparison.

    Args:
        scored: of the run.
        evaluation: that was made.
        data: that the run was trained on, tasks all of them.

    Returns:
        The items marked, the count in every score, and the ranking metric once more without the marked items, where some
        but not all are. Unchanged where the task, or no task of the mixture, says how its questions are read.

    Raises:
        HubError: a data set cannot be had.
    """
    read = get(evaluation.task).question
    revisions = data.revisions or (None,) * len(data.tasks)
    sources = [keys_of_training(get(name), revision) for name, revision in zip(data.tasks, revisions, strict=True)]
    if read is None or not any(sources):
        return scored
    documents = questions_of(get(evaluation.task), evaluation)
    keys = {name: key_of(read(document)) for name, document in documents.items()}
    items = [
        item.model_copy(update={"seen": any(keys[item.id] in source for source in sources)}) for item in scored.items
    ]
    count = sum(bool(item.seen) for item in items)
    scores = [score.model_copy(update={"contaminated": count}) for score in scored.scores]
    if 0 < count < len(items):
        scores += [clean_score(score, items) for score in scores if score.primary]
    return replace(scored, scores=scores, items=items)


def clean_score(score: Score, items: Sequence[Item]) -> Score:
    """A score of the items that were not trained on; it ranks nothing."""
    unseen = [item for item in items if not item.seen]
    return mean_score(
        [item.values[score.metric] for item in unseen],
        task=get(score.task),
        metric=f"{score.metric},{UNSEEN}",
        primary=False,
        evaluation=score.eval,
        invalid_rate=None if score.invalid_rate is None else invalid_share(unseen, score.metric),
    )
