"""Code: outputs ─► programs ─► the sandbox ─► pass@k."""

import math
from collections.abc import Mapping, Sequence

from hubinit.records import Item
from hubinit.scoring.generation import scores_generated
from hubinit.scoring.sandbox import LIMITS, Outcome, active, run_programs
from hubinit.scoring.spec import Scored, Scorer, mean_scores, wrong_document
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Coding, Document, Task

KS = (1, 10, 100)  # of pass@k, as far as there are samples
Runs = dict[tuple[int, int, str], Outcome]  # by item, sample and program


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples passes: 1 − C(n−c, k) / C(n, k).

    Binomials are whole numbers and their ratio is rounded once, so nothing cancels.

    Args:
        samples: n, at least k.
        passed: c, how many of them passed.
        k: how many may be tried.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {passed} passed in {samples} samples is not defined")
    draws = math.comb(samples, k)
    return (draws - math.comb(samples - passed, k)) / draws


def grade_programs(
    task: Task, documents: Mapping[str, Document], outputs: Sequence[Sequence[str]], evaluation: EvalSpec
) -> Scored:
    """Runs what each reading of the task finds in each output; one metric per reading and k.

    Raises:
        HubinitError: this machine has no isolation, and the user did not allow to go without; or a document without tests.
    """
    assert task.coding is not None
    protection = active()
    for key, document in documents.items():
        try:
            task.coding.program(document, "")
        except (LookupError, TypeError) as error:
            raise wrong_document(task, key, error) from error
    runs = run_all(task.coding, list(documents.values()), outputs)
    ks = [k for k in KS if k <= min(map(len, outputs))]
    items = [
        item_of(number, key, document, samples, task.coding, runs, ks)
        for number, ((key, document), samples) in enumerate(zip(documents.items(), outputs, strict=True))
    ]
    scores = mean_scores(items, task, evaluation, invalid=True)
    return Scored([score.model_copy(update={"protection": protection}) for score in scores], items)


def run_all(coding: Coding, documents: Sequence[Document], outputs: Sequence[Sequence[str]]) -> Runs:
    """Runs the programs of all samples, each once where two readings find the same in an output."""
    wanted = [
        (number, sample, coding.program(document, code))
        for number, (document, samples) in enumerate(zip(documents, outputs, strict=True))
        for sample, output in enumerate(samples)
        for reading in coding.readings
        if (code := reading.extract(output)) is not None
    ]
    unique = list(dict.fromkeys(wanted))
    outcomes = run_programs([program for _, _, program in unique], limits=LIMITS)
    return dict(zip(unique, outcomes, strict=True))


def item_of(
    number: int,
    key: str,
    document: Document,
    samples: Sequence[str],
    coding: Coding,
    runs: Runs,
    ks: Sequence[int],
) -> Item:
    """One item; what is extracted is the code of the first sample that has some, the detail is why the first one failed."""
    extracted: dict[str, str] = {}
    values: dict[str, float] = {}
    detail: str | None = None
    for reading in coding.readings:
        codes = [reading.extract(output) for output in samples]
        outcomes = [
            Outcome(False, "no code") if code is None else runs[number, sample, coding.program(document, code)]
            for sample, code in enumerate(codes)
        ]
        usable = next((code for code in codes if code is not None), None)
        for k in ks:
            metric = f"pass@{k},{reading.name}" if reading.name else f"pass@{k}"
            values[metric] = pass_at_k(len(samples), sum(outcome.ok for outcome in outcomes), k)
            if usable is not None:
                extracted[metric] = usable
        if reading is coding.readings[0]:
            detail = next((outcome.reason for outcome in outcomes if not outcome.ok), None)
    return Item(id=key, outputs=tuple(samples), extracted=extracted, values=values, detail=detail)


CODE = Scorer(
    name="code",
    title="runs the code that a model wrote in a sandbox, against the task's tests: pass@k",
    score=scores_generated(grade_programs),
    grade=grade_programs,
    check=active,
)
