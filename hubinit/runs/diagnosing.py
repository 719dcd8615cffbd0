"""The diagnostics of a run: throughput and drift always; on request the first update and what the model forgot.

The ones on request cost seconds: the first update about one step more, the neutral text two passes over about 4,000 tokens.
None of them changes a number of the training, so none is part of a run's key.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hubinit import tasks
from hubinit.data.encode import TokenExample
from hubinit.errors import HubError
from hubinit.models.base import Loaded
from hubinit.models.kinds import KINDS
from hubinit.paths import write_atomically
from hubinit.records import Diagnostics, Drift, FirstUpdate, Forgetting
from hubinit.specs import Recipe
from hubinit.tasks.rows import load_joined
from hubinit.training.drift import Factors, factor_layers, factors_of, mean_drift, measure_drift
from hubinit.training.first_update import WatchFirstUpdate
from hubinit.training.trainer import TrainOutcome, mean_loss

LAYERS = "diagnostics.json"  # in the folder of a run: the numbers of each layer
NEUTRAL = "boolq-gen"  # the passages of its test split are paragraphs of Wikipedia, which no task trains on
TEXTS = 32
LONGEST = 512  # tokens of a text


@dataclass
class Diagnosis:
    """What is looked at while an adapter trains: its factors at the start and, on request, its first update."""

    layers: Mapping[str, Any]
    start: Mapping[str, Factors]
    first: WatchFirstUpdate | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def callbacks(self) -> Sequence[TrainerCallback]:
        """What must act while the model trains."""
        return [self.first] if self.first else []

    def finish(self, outcome: TrainOutcome, folder: Path, forgetting: Forgetting | str | None) -> Diagnostics:
        """The diagnostics of the trained adapter; the numbers of its layers go to a file in the run's folder.

        Args:
            outcome: of the training.
            folder: of the run.
            forgetting: what was measured on the neutral text, or why nothing was; None: it was not wanted.
        """
        drifts = measure_drift(self.start, factors_of(self.layers))
        unmeasured = {} if drifts else {"drift": "this adapter has no factors A and B"}
        if self.first is not None and self.first.measured is None:
            unmeasured["first_update"] = self.first.reason or "training ended before its first step"
        if drifts:
            folder.mkdir(parents=True, exist_ok=True)
            cosines = self.first.cosines if self.first else {}
            write_atomically(folder / LAYERS, layer_text(drifts, cosines))
        return summary(
            outcome,
            forgetting,
            drift=mean_drift(drifts),
            first_update=self.first.measured if self.first else None,
            unmeasured=unmeasured,
        )


def watch_adapter(model: Any, *, costly: bool) -> Diagnosis:
    """Notes where an adapter starts; before training."""
    layers = factor_layers(model)
    return Diagnosis(layers, factors_of(layers), WatchFirstUpdate(model) if costly else None)


def layer_text(drifts: Mapping[str, Drift], cosines: Mapping[str, float]) -> str:
    """The numbers of each layer as JSON: its drift, and the cosine of its first update with −G."""
    rows = {name: drift.model_dump() | {"first_cosine": cosines.get(name)} for name, drift in drifts.items()}
    return json.dumps(rows, indent=1) + "\n"


def summary(
    outcome: TrainOutcome,
    forgetting: Forgetting | str | None,
    *,
    drift: Drift | None = None,
    first_update: FirstUpdate | None = None,
    unmeasured: Mapping[str, str] = {},
) -> Diagnostics:
    """The diagnostics of a training, of an adapter or of all weights."""
    counted = outcome.throughput
    rated = counted.input_tokens and counted.seconds
    return Diagnostics(
        input_tokens_per_second=counted.input_tokens / counted.seconds if rated else None,
        label_tokens_per_second=counted.label_tokens / counted.seconds if rated else None,
        drift=drift,
        first_update=first_update,
        forgetting=forgetting if isinstance(forgetting, Forgetting) else None,
        unmeasured={**unmeasured, **({"forgetting": forgetting} if isinstance(forgetting, str) else {})},
    )


@dataclass(frozen=True)
class NeutralText:
    """The first distinct passages of a data set, as tokens.

    PEFT's method_comparison measures forgetting so too, on the first texts of a Wikipedia data set: the mean cross-entropy of
    next tokens of the trained model minus that of the base without the adapter.
    """

    dataset: str
    revision: str | None
    split: str
    examples: tuple[TokenExample, ...]

    def loss(self, model: Any, loaded: Loaded) -> float:
        """The mean cross-entropy of all tokens but the first of each text, in nats."""
        return mean_loss(model, loaded.processor, self.examples, Recipe(micro_batch_size=1, max_length=LONGEST))

    def compare(self, before: float, after: float) -> Forgetting:
        """The record of both losses."""
        return Forgetting(
            dataset=self.dataset,
            revision=self.revision,
            split=self.split,
            texts=len(self.examples),
            tokens=sum(len(example.tokens) - 1 for example in self.examples),
            before=before,
            after=after,
        )


def neutral_text(loaded: Loaded) -> NeutralText | str:
    """The neutral text for a base, or why there is none."""
    if KINDS[loaded.spec.kind].labelled:
        return "the model has classes, not a next token"
    task = tasks.get(NEUTRAL)
    try:
        revision = tasks.pin(NEUTRAL)
        rows = load_joined(task, task.test_configs, task.test_split, revision)
    except HubError as error:
        return str(error)
    passages = list(dict.fromkeys(rows["passage"]))[:TEXTS]
    encoded = (loaded.processor(passage)["input_ids"][:LONGEST] for passage in passages)
    examples = tuple(TokenExample(tuple(tokens), 1) for tokens in encoded if len(tokens) > 1)
    return NeutralText(task.dataset, revision, task.test_split, examples)
