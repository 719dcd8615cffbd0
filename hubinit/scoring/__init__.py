"""Scorers: from a model and a task, or from recorded outputs, to scores and a record of every item."""

from typing import TYPE_CHECKING

from hubinit.scoring.outputs import score_outputs
from hubinit.scoring.spec import Scored

if TYPE_CHECKING:
    from hubinit.scoring.task_metric import TaskMetric


def metric(task: str) -> "TaskMetric":
    """The grader of a task as a module of the library `evaluate`, which combines with that library's own.

    The same is loaded by `evaluate.load(hubinit.scoring.task_metric.__file__, task)`, without a download.

    Args:
        task: name of a task that is answered in free text.

    Raises:
        HubinitError: an unknown task, or one that is scored by log-likelihoods.
    """
    from hubinit.scoring.task_metric import TaskMetric  # not above: the library takes seconds to import

    return TaskMetric(task)


__all__ = ["Scored", "metric", "score_outputs"]
