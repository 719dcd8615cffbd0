"""BLEU and NIST of generated texts against several references each, as the scripts of the E2E NLG Challenge count them.

Every function takes weights (b × n), how often each of the n texts counts in each of b sets, and gives one value per set: the
whole set, single texts and bootstrap resamples are rows of one matrix, because both metrics are functions of summed counts.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

Values = NDArray[np.float64]
DRAWS = 1000  # bootstrap resamples
ORDER = 5  # longest n-gram of NIST
BETA = math.log(0.5) / math.log(1.5) ** 2  # NIST's length penalty is 1/2 for a text of 2/3 of the reference's length


def set_weights(n: int) -> Values:
    """The whole set, each text alone, and `DRAWS` resamples of n texts with replacement, from seed 0: (1 + n + draws) × n."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return np.vstack([np.ones((1, n)), np.eye(n), drawn])


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], weights: Values) -> dict[str, Values]:
    """BLEU-4 on 13a tokens without case, 0–1: the closest reference's length, and mteval's smoothing where an order has no match.

    Source: mteval-v13a of tuetschek/e2e-metrics, which sacrebleu follows.
    """
    scorer = BLEU(lowercase=True, tokenize="13a", effective_order=True)  # the last concerns its own sentence score only
    found = [scorer.sentence_score(text, several) for text, several in zip(texts, references, strict=True)]
    counts = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found])  # n × 10
    sums: list[list[int]] = (weights @ counts).astype(int).tolist()
    return {
        "bleu": np.array(
            [BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method="exp").score / 100 for row in sums]
        )
    }


def nist(texts: Sequence[str], references: Sequence[Sequence[str]], weights: Values) -> dict[str, Values]:
    """NIST-5 on 13a tokens without case; the weight of an n-gram is its information in all references of the set.

    The challenge's scripts differ in the length that a text is held to. `nist`: the references' words over the largest number
    of references (mteval-v13a.pl, their default); `nist,python`: the mean length of the text's own references (their option
    -p, as in microsoft/LoRA). Where no text is shorter than its references the two are equal.

    Source: Doddington 2002; tuetschek/e2e-metrics.
    """
    words = [tokens(text) for text in texts]
    known = [[tokens(reference) for reference in several] for several in references]
    total = Counter(ngram for several in known for one in several for ngram in ngrams(one))
    total[()] = sum(len(one) for several in known for one in several)
    counts = np.array(
        [
            [
                *information(one, several, total),
                *(max(len(one) - order, 0) for order in range(ORDER)),
                sum(map(len, several)) / max(map(len, known)),
                sum(map(len, several)) / len(several),
            ]
            for one, several in zip(words, known, strict=True)
        ]
    )  # n × (2 · ORDER + 2)
    sums = weights @ counts
    length = sums[:, ORDER]  # of the texts, in words
    score = (sums[:, :ORDER] / np.maximum(sums[:, ORDER : 2 * ORDER], 1)).sum(axis=1)
    return {
        "nist": score * nist_penalty(length, sums[:, 2 * ORDER]),
        "nist,python": score * nist_penalty(length, sums[:, 2 * ORDER + 1]),
    }


def information(
    words: Sequence[str], references: Sequence[Sequence[str]], total: Counter[tuple[str, ...]]
) -> list[float]:
    """The information of the n-grams that a text shares with its references, in bits, for n = 1..ORDER."""
    most: Counter[tuple[str, ...]] = reduce(
        lambda left, right: left | right, (Counter(ngrams(one)) for one in references)
    )
    shared = Counter(ngrams(words)) & most
    bits = [0.0] * ORDER
    for ngram, count in shared.items():
        bits[len(ngram) - 1] += count * math.log2(total[ngram[:-1]] / total[ngram])
    return bits


def nist_penalty(length: Values, reference_length: Values) -> Values:
    """1 for texts as long as their references, less for shorter ones, 0 for empty ones."""
    ratio = np.minimum(length / np.maximum(reference_length, 1e-9), 1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(BETA * np.log(ratio) ** 2))


def ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All n-grams of up to `ORDER` words."""
    return (
        tuple(words[start : start + order]) for order in range(1, ORDER + 1) for start in range(len(words) - order + 1)
    )


def tokens(text: str) -> list[str]:
    """The words of a text by mteval's 13a rules, in lower case."""
    words: str = _TOKENIZER(text.lower())
    return words.split()


_TOKENIZER = Tokenizer13a()
