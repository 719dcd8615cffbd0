"""What a benchmark is: one frozen object that says where its data are and which rule scores it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubinit.data.encode import Example
from hubinit.specs import ModelKind

Document = Mapping[
    str, Any
]  # one test question with its reference: a row of the data set, or several rows made into one


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: per answer.
        beams: of the beam search; 1 is greedy, or sampling.
        temperature: 0 takes the likeliest token, anything else samples.
        top_p: mass of the tokens that are sampled from.
        samples: answers per question.
        length_penalty: exponent of the length by which a beam's log-likelihood is divided.
        no_repeat_ngram: length of the token sequences that may not occur twice; 0 allows all.
        stop: texts that end an answer and do not belong to it.
    """

    max_new_tokens: int
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One way to read an answer out of a free text.

    Attributes:
        name: of the metric, in lm-eval's notation `metric,filter`.
        extract: output ─► the answer as it is compared; None where there is not a usable one.
        matches: whether an extracted answer is the document's.
        source: who reads it so, with the file.
    """

    name: str
    extract: Callable[[str], str | None]
    matches: Callable[[str, Document], bool]
    source: str


@dataclass(frozen=True)
class Generative:
    """How a task that is answered in free text asks and what it teaches.

    Attributes:
        prompt: document ─► what the model is given.
        training: training row ─► prompt and completion.
        decoding: how the answers are generated.
        group: rows of the test split ─► documents, where a document is not a row.
        identify: the id of a document; None: its position in the test split.
    """

    prompt: Callable[[Document], str]
    training: Callable[[Document], Example]
    decoding: Decoding
    group: Callable[[Sequence[Document]], list[Document]] | None = None
    identify: Callable[[Document], str] | None = None


@dataclass(frozen=True)
class Task:
    """One benchmark.

    A language task is either lm-eval's (`definition`, `harness`), so that a score means what it means elsewhere, and training
    examples are made from the same definition; or it is `generative`: prompt, decoding and rules are its own.

    Attributes:
        name: as in `--tasks`.
        title: as printed in tables and cards.
        kind: which models it is for.
        dataset: Hub repository of the data (or a local folder; "": several, or files from elsewhere).
        config: configuration of the data set, if it has several.
        train_split: what training and validation examples are drawn from.
        train_configs: configurations whose training splits are joined. Default: `config` alone.
        test_split: what is scored; never used to choose anything.
        source: the paper and the official rule.
        scorer: name of what scores it, see `hubinit.scoring.evaluate`.
        needs: what it needs beyond Python, for `hubinit tasks`.
        generative: how it asks, where it does so itself.
        rules: how answers are read; the metrics of a task whose scorer is `rules`, and extra ones of lm-eval's free-text tasks.
        definition: lm-eval's file, relative to its folder of tasks ("" for image tasks) or absolute.
        harness: lm-eval's name of the task.
        primary: the metric that ranks the task, in lm-eval's notation `metric,filter`; "": the scorer finds it.
        image_column: column with the image.
        label_column: column with the class index.
        shots: solved examples in the prompt where the user does not say how many.
    """

    name: str
    title: str
    kind: ModelKind
    dataset: str
    train_split: str
    test_split: str
    source: str
    config: str | None = None
    train_configs: tuple[str, ...] = ()
    scorer: str = "lm-eval"
    needs: str = ""
    generative: Generative | None = None
    rules: tuple[Rule, ...] = ()
    definition: str = ""
    harness: str = ""
    primary: str = "acc,none"
    image_column: str = "image"
    label_column: str = "label"
    shots: int = 0
