"""The toolkit's graders as a module of the library `evaluate`; the name of its configuration is the task.

`evaluate.load` copies this file elsewhere and runs the copy, so everything that it needs is imported from the package.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

from hubinit.errors import HubinitError
from hubinit.scoring.outputs import gradable, score_outputs

INPUTS = """
Args:
    predictions: for each question its answer, or a list of samples.
    references: for each question its row of the data set; or the reference text, or a list of them, where that is all that the
        task compares with.
"""


class TaskMetric(evaluate.Metric):  # type: ignore[misc]
    """Scores free-text answers as `hubinit eval` does; `compute` gives one value per metric of the task."""

    def __init__(self, config_name: str | None = None, **options: Any) -> None:
        if config_name is None:
            raise HubinitError("Name the task as the configuration, as in evaluate.load(..., 'e2e').")
        super().__init__(config_name, **options)
        self.info.module_name = self.config_name  # what `evaluate.combine` tells equal metrics apart by

    def _info(self) -> Any:
        task = gradable(self.config_name)
        return evaluate.MetricInfo(
            description=f"{task.title}: {task.source}.",
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def add_batch(self, *, predictions: Sequence[Any] = (), references: Sequence[Any] = ()) -> None:
        """Adds answers and what they are compared with.

        Raises:
            HubinitError: there are more of one than of the other, or something that JSON cannot hold.
        """
        if len(predictions) != len(references):
            raise HubinitError(f"There are {len(predictions)} predictions for {len(references)} references.")
        super().add_batch(predictions=list(map(as_json, predictions)), references=list(map(as_json, references)))

    def add(self, *, prediction: Any = None, reference: Any = None, **single: Any) -> None:
        """Adds one answer and what it is compared with."""  # `evaluate.combine` uses the plural names here, too
        self.add_batch(
            predictions=[single.get("predictions", prediction)], references=[single.get("references", reference)]
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        documents = {
            str(place): document_of(json.loads(text), self.config_name) for place, text in enumerate(references)
        }
        scored = score_outputs(self.config_name, [json.loads(text) for text in predictions], documents)
        for note in scored.notes:
            warnings.warn(note, stacklevel=2)
        return {score.metric: score.value for score in scored.scores}


def as_json(value: Any) -> str:
    """A prediction or reference as one text, which any column of the library can hold.

    Raises:
        HubinitError: it holds something that JSON cannot.
    """
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise HubinitError(f"A prediction or reference cannot be scored: {error}.") from error


def document_of(reference: Any, task: str) -> dict[str, Any]:
    """The document that a reference stands for.

    Raises:
        HubinitError: it is neither a row, nor a text, nor a list of texts.
    """
    if isinstance(reference, Mapping):
        return dict(reference)
    if isinstance(reference, str) and task.startswith("gsm8k") and "####" not in reference:
        return {"answer": f"#### {reference}"}  # how that data set marks an answer
    if isinstance(reference, str):
        return {"answer": reference, "references": [reference]}
    if isinstance(reference, list):
        return {"references": reference}
    raise HubinitError(f"A reference is a row, a text or a list of texts, not {reference!r}.")
