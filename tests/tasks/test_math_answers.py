"""MATH's rules: the clean-up of Hendrycks et al., case by case."""

import pyarrow.parquet as pq
import pytest

from hubinit.scoring import score_outputs
from hubinit.tasks.math_answers import HENDRYCKS, MATH_RULES, MILORA, clean_up, equivalent, last_boxed
from tests.texts import SHARED

CLEANED = [
    ("\\dfrac12", "\\frac{1}{2}"),
    ("\\frac1{72}", "\\frac{1}{72}"),
    ("\\frac{72}1", "\\frac{72}1"),  # not known to the clean-up
    ("\\tfrac{a}b + \\frac3", "\\frac{a}b+\\frac3"),  # one character to itself: all are left alone
    ("1/2", "\\frac{1}{2}"),
    ("-1/2", "\\frac{-1}{2}"),
    ("01/2", "01/2"),
    ("1/2/3", "1/2/3"),
    ("0.5", "\\frac{1}{2}"),
    (".5", "\\frac{1}{2}"),
    ("0.50", "0.50"),
    ("(.5, .25)", "(.5,0.25)"),
    ("\\sqrt3", "\\sqrt{3}"),
    ("2\\sqrt{3} ", "2\\sqrt{3}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
    ("90^\\circ", "90"),
    ("90^{\\circ}", "90"),
    ("50\\%", "50"),
    ("50%", "50%"),  # the released code takes the escaped sign only
    ("\\$1,234", "1,234"),
    ("1,\\!234", "1,234"),
    ("12\\text{ inches}", "12"),
    ("x = 5", "5"),
    ("f(x) = 5", "f(x)=5"),
    ("x = y = 5", "x=y=5"),
    ("1\n0", "10"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\2\\end{pmatrix}"),
    ("½", "½"),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("latex", "cleaned"), CLEANED)
def test_clean_up(latex: str, cleaned: str) -> None:
    assert clean_up(latex) == cleaned


@pytest.mark.parametrize("latex", ["\\frac", "\\sqrt", "1\\frac{1}{2}\\frac", "\\sqrt\\sqrt2", "a\\text{ b}\\text{ c}"])
def test_what_cannot_be_cleaned_is_compared_as_it_is(latex: str) -> None:
    with pytest.raises(ValueError, match=r"nothing|unpack"):
        clean_up(latex)
    assert equivalent(latex, latex)
    assert not equivalent(latex, f"{latex} ")


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{1}, no: \\boxed{\\frac{1}{2}} is it", "\\frac{1}{2}"),
        ("\\boxed{a\n{b}}", "a\n{b}"),
        ("```\n\\boxed{-5}\n```", "-5"),
        ("\\boxed{}", ""),
        ("\\boxed{5", None),
        ("\\boxed 5", None),
        ("\\boxed{4} \\boxed 5 {6}", None),
        ("\\fbox{5}", None),
        ("5", None),
        ("", None),
    ],
)
def test_the_last_box(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


# output, reference, read and right by Hendrycks, by MiLoRA
CASES = [
    ("\\boxed{\\dfrac{1}{2}}", "\\frac12", ("\\dfrac{1}{2}", True), (None, False)),
    ("\\boxed{2}\nThe answer is: 2.", "2", ("2", True), ("2", True)),
    ("The answer is: \\frac12.\nI hope that helps.", "0.5", (None, False), ("\\frac12", True)),
    ("The answer is: 1,234", "1234", (None, False), ("1,234", True)),
    ("The answer is: 0.3333", "0.33333", (None, False), ("0.3333", True)),
    ("The answer is: 50", "0.5", (None, False), ("50", False)),  # the clean-up made a fraction of 0.5
    ("The answer is: 75", "0.75", (None, False), ("75", True)),  # per cent
    ("The answer is: (1, 0.50)", "(1,0.500)", (None, False), ("(1, 0.50)", True)),
    ("The answer is: (1, 2)", "[1,2]", (None, False), ("(1, 2)", False)),
    ("The answer is: [1,2]", "1,2", (None, False), ("[1,2]", True)),
    ("The answer is: 3\nNo. The answer is: 4", "4", (None, False), ("4", True)),
    ("The answer is 4", "4", (None, False), (None, False)),
    ("The answer is: \\frac", "5", (None, False), ("\\frac", False)),  # taken as right by the released code
    ("", "5", (None, False), (None, False)),
]


@pytest.mark.parametrize(("output", "reference", "hendrycks", "milora"), CASES)
def test_answers_are_read_and_compared(
    output: str, reference: str, hendrycks: tuple[str | None, bool], milora: tuple[str | None, bool]
) -> None:
    for rule, (wanted, right) in ((HENDRYCKS, hendrycks), (MILORA, milora)):
        answer = rule.extract(output)
        assert answer == wanted
        assert (answer is not None and rule.matches(answer, {"answer": reference})) == right


def test_the_reference_is_the_last_box_of_the_solution() -> None:
    assert HENDRYCKS.matches("7", {"solution": "First \\boxed{6}, then \\boxed{7}."})
    assert HENDRYCKS.matches(
        "2", {"solution": "We want the largest, so our answer is $\\boxed 2$."}
    )  # a row of the data


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
def test_reference_solutions_are_right_under_every_rule() -> None:
    rows = pq.read_table(SHARED / "HuggingFaceH4/MATH-500/default/test-00000-of-00001.parquet").to_pylist()
    lines = [{"output": f"{row['solution']}\nThe answer is: {row['answer']}", "document": row} for row in rows]
    scored = score_outputs("math-500", lines)
    wrong = {name: [item.id for item in scored.items if not item.values[name]] for name in scored.items[0].values}
    assert len(scored.items) == 500
    assert not any(wrong.values()), wrong
    assert {"hendrycks", "milora"} <= set(wrong) <= {rule.name for rule in MATH_RULES}
    parts = {score.metric: score.n for score in scored.scores if "level=" in score.metric}
    assert parts == {f"hendrycks,level={level}": n for level, n in enumerate((43, 90, 105, 128, 134), 1)}
