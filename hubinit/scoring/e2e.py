"""Data to text: the five metrics of the E2E NLG Challenge, over texts that have several references each."""

from collections.abc import Mapping, Sequence

from hubinit.records import Item, Score
from hubinit.scoring import captions
from hubinit.scoring.generation import scores_generated
from hubinit.scoring.spec import Scored, Scorer, mean_score, wrong_document
from hubinit.scoring.text import Values, bleu, nist, set_weights
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Document, Task

CAPTIONS = {"meteor": "METEOR", "rouge_l": "ROUGE-L", "cider": "CIDEr"}  # those that need Java


def grade_e2e(
    task: Task, documents: Mapping[str, Document], outputs: Sequence[Sequence[str]], evaluation: EvalSpec
) -> Scored:
    """BLEU, NIST, METEOR, ROUGE-L and CIDEr of the first sample of each document; without Java only the first two, and a note.

    BLEU, NIST and METEOR are of the set as a whole: their standard error is that of a bootstrap over the documents, and an
    item's own value is that of the item as a set, so the score is not the mean of the items.

    Raises:
        HubinitError: a document without references.
    """
    references = [references_of(task, key, document) for key, document in documents.items()]
    texts = [" ".join(samples[0].split()) for samples in outputs]
    weights = set_weights(len(texts))
    corpus = bleu(texts, references, weights) | nist(texts, references, weights)
    means: dict[str, list[float]] = {}
    notes: list[str] = []
    try:
        words, known = treebank_all(texts, references)
        means = {"rouge_l": captions.rouge_l(words, known), "cider": captions.cider(words, known)}
        corpus |= captions.meteor(words, known, weights)
    except captions.JavaError as error:
        notes = [f"{title}: {error}." for name, title in CAPTIONS.items() if name not in means]
    by_item = {name: values[1 : len(texts) + 1].tolist() for name, values in corpus.items()} | means
    items = [
        Item(id=key, outputs=tuple(samples), values={name: values[place] for name, values in by_item.items()})
        for place, (key, samples) in enumerate(zip(documents, outputs, strict=True))
    ]
    scores = [corpus_score(values, len(texts), task, name, evaluation) for name, values in corpus.items()]
    scores += [
        mean_score(values, task=task, metric=name, primary=name == task.primary, evaluation=evaluation)
        for name, values in means.items()
    ]
    return Scored(scores, items, tuple(notes))


def references_of(task: Task, key: str, document: Document) -> list[str]:
    """The references of a document.

    Raises:
        HubinitError: it has none.
    """
    references = document.get("references")
    if (
        not isinstance(references, list | tuple)
        or not references
        or not all(isinstance(one, str) for one in references)
    ):
        raise wrong_document(task, key, "it needs `references`, a list of texts")
    return [" ".join(one.split()) for one in references]


def treebank_all(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Texts and references as Penn Treebank tokens, in one go of the tokenizer.

    Raises:
        captions.JavaError: it cannot run.
    """
    tokenised = iter(captions.treebank([*texts, *(one for several in references for one in several)]))
    return [next(tokenised) for _ in texts], [[next(tokenised) for _ in several] for several in references]


def corpus_score(values: Values, n: int, task: Task, metric: str, evaluation: EvalSpec) -> Score:
    """The value of the whole set (see `set_weights`), with the standard deviation over the resamples as its error."""
    return Score(
        task=task.name,
        metric=metric,
        value=float(values[0]),
        n=n,
        stderr=float(values[n + 1 :].std(ddof=1)) if n > 1 else None,
        primary=metric == task.primary,
        eval=evaluation,
    )


E2E = Scorer(
    name="e2e",
    title="generates a text and compares it with several references: BLEU, NIST; METEOR, ROUGE-L and CIDEr with Java",
    score=scores_generated(grade_e2e),
    grade=grade_e2e,
    verdicts=False,
)
