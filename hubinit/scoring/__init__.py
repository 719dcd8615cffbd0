"""Scorers: from a model and a task, or from recorded outputs, to scores and a record of every item."""

from hubinit.scoring.outputs import score_outputs
from hubinit.scoring.spec import Scored

__all__ = ["Scored", "score_outputs"]
