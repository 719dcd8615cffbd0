"""What a benchmark is: one frozen object that says where its data are and which rule scores it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubinit.data.encode import Example
from hubinit.specs import ModelKind

Document = Mapping[
    str, Any
]  # one test question with its reference: a row of the data set, or several rows made into one
Asked = tuple[str, str]  # a question and its right answer


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
        whole: `matches` wants the whole output, from which something was extracted.
        extra: hubinit's extra that it needs; without it the rule is left out.
    """

    name: str
    extract: Callable[[str], str | None]
    matches: Callable[[str, Document], bool]
    source: str
    whole: bool = False
    extra: str = ""


@dataclass(frozen=True)
class Reading:
    """One way to read code out of a free text.

    Attributes:
        name: of the variant, after the metric; "" for the one that ranks the task.
        extract: output ─► code; None where there is none.
        source: who reads it so, with the file.
    """

    name: str
    extract: Callable[[str], str | None]
    source: str


@dataclass(frozen=True)
class Coding:
    """How a task is scored by running what was written.

    Attributes:
        program: (document, code) ─► the program with its tests, which has passed when it runs to its end.
        readings: how code is read out of an output; each gives its own metrics.
    """

    program: Callable[[Document, str], str]
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Generative:
    """How a task that is answered in free text asks and what it teaches.

    Attributes:
        prompt: document ─► what the model is given.
        training: training row ─► prompt and completion.
        decoding: how the answers are generated.
        keep: whether a training row is trained on. Default: all are.
        sampling: how several answers per question are generated, where that is not the same.
        before: (task, revision of the data) ─► what stands before every prompt, such as solved examples.
        group: rows of the test split ─► documents, where a document is not a row.
        identify: the id of a document; None: its position in the test split.
    """

    prompt: Callable[[Document], str]
    training: Callable[[Document], Example]
    decoding: Decoding
    keep: Callable[[Document], bool] | None = None
    sampling: Decoding | None = None
    before: "Callable[[Task, str | None], str] | None" = None
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
        train_split: what training and validation examples are drawn from; "" where there is nothing to train on.
        train_configs: configurations whose training splits are joined. Default: `config` alone.
        test_split: what is scored; never used to choose anything. "" where a generative task is training data alone.
        test_configs: configurations whose test splits are joined. Default: `config` alone.
        source: the paper and the official rule.
        scorer: name of what scores it, see `hubinit.scoring.evaluate`.
        needs: what it needs beyond Python, for `hubinit tasks`.
        generative: how it asks, where it does so itself.
        rules: how answers are read; the metrics of a task whose scorer is `rules`, and extra ones of lm-eval's free-text tasks.
        coding: how programs are made of the answers, where the scorer is `code`.
        definition: lm-eval's file, relative to its folder of tasks ("" for image tasks) or absolute.
        harness: lm-eval's name of the task.
        primary: the metric that ranks the task, in lm-eval's notation `metric,filter`; "": the scorer finds it.
        question: document ─► question and right answer, by which training data are searched for test items. Default: they
            are not.
        breakdown: columns of the test split; the primary metric is also given for each of their values, as `metric,column=value`.
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
    test_configs: tuple[str, ...] = ()
    scorer: str = "lm-eval"
    needs: str = ""
    generative: Generative | None = None
    rules: tuple[Rule, ...] = ()
    coding: Coding | None = None
    definition: str = ""
    harness: str = ""
    primary: str = "acc,none"
    question: Callable[[Document], Asked] | None = None
    breakdown: tuple[str, ...] = ()
    image_column: str = "image"
    label_column: str = "label"
    shots: int = 0

    @property
    def trains_only(self) -> bool:
        """Whether this is training data, with nothing to score."""
        return self.generative is not None and not self.test_split

    @property
    def judged(self) -> bool:
        """Whether another model rates the answers."""
        return self.scorer == "judge"
