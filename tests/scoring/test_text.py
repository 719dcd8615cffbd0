"""BLEU and NIST against independent counts, and the sets that one matrix of weights describes."""

import math
from collections import Counter

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from hubinit.scoring.text import DRAWS, bleu, nist, set_weights, tokens

TEXTS = [
    "The Eagle is a cheap pub near Burger King .",
    "Cocum is a coffee shop.",
    "In riverside, Aromi is in riverside",
]
REFERENCES = [
    ["Near Burger King is The Eagle, a cheap pub.", "The Eagle is a cheap, low-priced pub close to Burger King."],
    ["Cocum is a coffee shop that costs over £30."],
    ["Aromi is in riverside.", "You find Aromi in riverside.", "aromi serves riverside; it is in riverside."],
]


def brute_nist(texts: list[str], references: list[list[str]], lengths: list[float]) -> float:
    """NIST-5 by the formula of Doddington 2002, n-gram by n-gram."""

    def grams(words: list[str], n: int) -> list[str]:
        return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]

    known = [[tokens(one) for one in several] for several in references]
    everything = [words for several in known for words in several]
    total = 0.0
    for n in range(1, 6):
        hits, length = 0.0, 0
        for text, several in zip(texts, known, strict=True):
            mine = grams(tokens(text), n)
            length += len(mine)
            for gram in set(mine):
                count = min(mine.count(gram), max(grams(words, n).count(gram) for words in several))
                if count:
                    longer = sum(grams(words, n).count(gram) for words in everything)
                    prefix = gram.rpartition(" ")[0]
                    shorter = sum(grams(words, n - 1).count(prefix) if n > 1 else len(words) for words in everything)
                    hits += count * math.log2(shorter / longer)
        total += hits / max(length, 1)
    ratio = min(sum(len(tokens(text)) for text in texts) / sum(lengths), 1)
    return total * 0.5 ** ((math.log(ratio) / math.log(1.5)) ** 2)


def test_bleu_is_mteval_s_without_case() -> None:
    rectangle = [[several[i] if i < len(several) else "" for several in REFERENCES] for i in range(3)]
    rectangle = [[one or None for one in line] for line in rectangle]  # type: ignore[misc]
    expected = BLEU(lowercase=True, tokenize="13a", smooth_method="none").corpus_score(TEXTS, rectangle).score / 100
    assert 0.1 < expected < 0.9
    assert bleu(TEXTS, REFERENCES, np.ones((1, 3)))["bleu"] == pytest.approx([expected], abs=1e-12)
    shouted = [text.upper() for text in TEXTS]
    assert bleu(shouted, REFERENCES, np.ones((1, 3)))["bleu"] == pytest.approx([expected], abs=1e-12)


def test_an_order_without_a_match_is_smoothed_as_mteval_does() -> None:
    value = bleu(["a b x c d"], [["a b y c d"]], np.ones((1, 1)))["bleu"][0]
    assert value == pytest.approx((4 / 5 * 2 / 4 * 1 / (2 * 3) * 1 / (4 * 2)) ** 0.25, abs=1e-12)


def test_nist_holds_a_text_to_either_length() -> None:
    found = nist(TEXTS, REFERENCES, np.ones((1, 3)))
    words = [[len(tokens(one)) for one in several] for several in REFERENCES]
    most = max(map(len, REFERENCES))
    assert found["nist"] == pytest.approx([brute_nist(TEXTS, REFERENCES, [sum(one) / most for one in words])])
    mean = [sum(one) / len(one) for one in words]
    assert found["nist,python"] == pytest.approx([brute_nist(TEXTS, REFERENCES, mean)])
    assert found["nist,python"][0] < found["nist"][0]  # the texts are shorter than their references here
    assert nist(["a b c d e"], [["a b c d e"]], np.ones((1, 1)))["nist"] == pytest.approx([math.log2(5)])


@pytest.mark.parametrize("text", ["", ".", "x", "£", "\x00 \ud800", "a b"])
def test_odd_texts_have_values(text: str) -> None:
    for values in (bleu([text], [["a b c"]], np.ones((1, 1))) | nist([text], [["a b c"]], np.ones((1, 1)))).values():
        assert 0 <= values[0] < 5


def test_one_matrix_holds_the_set_its_items_and_resamples() -> None:
    weights = set_weights(3)
    assert weights.shape == (1 + 3 + DRAWS, 3)
    assert (weights.sum(axis=1) == [3, 1, 1, 1, *[3] * DRAWS]).all()
    assert (set_weights(3) == weights).all()
    values = bleu(TEXTS, REFERENCES, weights)["bleu"]
    alone = [
        bleu([text], [several], np.ones((1, 1)))["bleu"][0] for text, several in zip(TEXTS, REFERENCES, strict=True)
    ]
    assert values[1:4] == pytest.approx(alone)
    counts = Counter(map(tuple, weights[4:].tolist()))
    (first, second, third), _ = counts.most_common(1)[0]
    drawn = [0] * int(first) + [1] * int(second) + [2] * int(third)
    expected = bleu([TEXTS[i] for i in drawn], [REFERENCES[i] for i in drawn], np.ones((1, 3)))["bleu"]
    assert values[weights.tolist().index([first, second, third])] == pytest.approx(expected[0])
