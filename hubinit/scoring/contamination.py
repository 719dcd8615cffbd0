"""Test items that occur in what a run was trained on: counted, marked, and left out of a second score."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hubinit.errors import HubinitError, first_line
from hubinit.records import Item, Score
from hubinit.scoring.evaluate import SCORERS
from hubinit.scoring.outputs import questions_of
from hubinit.scoring.spec import Scored, invalid_share, mean_score
from hubinit.specs import DataSpec, EvalSpec
from hubinit.tasks import get
from hubinit.tasks.questions import key_of, keys_of_training
from hubinit.tasks.spec import Document

UNSEEN = "unseen"  # the filter of a metric without the items that were trained on


def mark_seen(
    scored: Scored, evaluation: EvalSpec, data: DataSpec, documents: Mapping[str, Document] | None = None
) -> Scored:
    """Marks the items whose question and right answer are in the training splits that a model was trained on.

    The whole splits count, whichever of their rows the run's seed and number of examples chose: so the clean items are the
    same for all runs of a comparison.

    Args:
        scored: of the run.
        evaluation: that was made.
        data: that it was trained on, tasks all of them.
        documents: the questions by the ids of the items. Default: the task's test split.

    Returns:
        The items marked, the count in every score, and the ranking metric once more without the marked items, where some
        but not all are and the score is the mean of its items. Unchanged where the task, or no task of the mixture, says how
        its questions are read.

    Raises:
        HubError: a data set cannot be had.
        HubinitError: a document without a question.
    """
    task = get(evaluation.task)
    read = task.question
    revisions = data.revisions or (None,) * len(data.tasks)
    sources = [keys_of_training(get(name), revision) for name, revision in zip(data.tasks, revisions, strict=True)]
    if read is None or not any(sources):
        return scored
    asked = questions_of(task, evaluation) if documents is None else documents
    try:
        keys = {name: key_of(read(document)) for name, document in asked.items()}
    except (LookupError, TypeError, ValueError) as error:
        raise HubinitError(f"A document of '{task.name}' has no question: {first_line(error)}.") from error
    items = [
        item.model_copy(update={"seen": any(keys[item.id] in source for source in sources)}) for item in scored.items
    ]
    count = sum(bool(item.seen) for item in items)
    scores = [score.model_copy(update={"contaminated": count}) for score in scored.scores]
    if 0 < count < len(items) and SCORERS[task.scorer].verdicts:
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
