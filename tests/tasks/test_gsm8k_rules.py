"""GSM8K's rules: what each reads, as its source does."""

from pathlib import Path

import lm_eval.tasks
import pyarrow.parquet as pq
import pytest
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.tasks._yaml_loader import load_yaml

from hubinit import tasks
from hubinit.scoring import score_outputs
from hubinit.tasks.gsm8k_papers import solution_with_phrase
from hubinit.tasks.gsm8k_rules import GSM8K_RULES
from tests.texts import SHARED

RULES = [rule for rule in GSM8K_RULES if not rule.extra]
DEFINITION = load_yaml(Path(lm_eval.tasks.__file__).parent / "gsm8k/gsm8k.yaml", resolve_func=False)
NAMES = ["exact_match,strict-match", "exact_match,flexible-extract", "strict", "lora-da", "milora", "lora-ga",
         "peft-metamath"]  # fmt: skip
# output, reference, what each rule reads; ✓: it takes it for right
# fmt: off
CASES = [
    ("So 70 + 2 = 72.\n#### 72", "72", ("72 ✓", "72 ✓", "72 ✓", "72 ✓", None, "72 ✓", "72 ✓")),  # right
    ("So 70 + 2 = 72.\n#### 72\nThe answer is: 72", "72",
     ("72 ✓", "72 ✓", "72 ✓", "72 ✓", "72 ✓", "72 ✓", "72 ✓")),  # MetaMathQA's form
    ("The answer is: 72.", "72", (None, "72. ✓", None, "72 ✓", "72 ✓", "0", "72 ✓")),  # the phrase alone
    ("#### 71", "72", ("71", "71", "71", "71", None, "71", "71")),  # wrong
    ("####72", "72", (None, "72 ✓", None, "72 ✓", None, "72 ✓", None)),  # no space
    ("### 72", "72", (None, "72 ✓", None, None, None, "0", None)),  # three marks
    ("It is 72", "72", (None, "72 ✓", None, None, None, "0", None)),  # no mark
    ("#### 72\n\nQuestion: and now?\n#### 5", "72", ("72 ✓", "5", "72 ✓", "5", None, "72 ✓", "5")),  # another question follows
    ("#### 71\nNo, it must be\n#### 72", "72", ("71", "72 ✓", "71", "72 ✓", None, "71", "72 ✓")),  # two answers
    ("#### 72\nThe answer is: 71", "72", ("72 ✓", "71", "72 ✓", "72 ✓", "71", "72 ✓", "71")),  # both marks differ
    ("The answer is: 72\n\nI hope this helps!", "72", (None, "72 ✓", None, "72 ✓", "72 ✓", "0", "72 ✓")),  # lines after
    ("#### ７２", "72", (None, None, None, "72 ✓", None, "72 ✓", "７２ ✓")),  # full-width digits
    ("答案是：72。", "72", (None, "72 ✓", None, None, None, "0", None)),  # words of another script
    ("", "72", (None, None, None, None, None, "0", None)),  # empty
    ("####", "72", (None, None, None, None, None, "0", None)),  # a mark without a number
    ("#### 1,234", "1,234", ("1,234 ✓", "1,234 ✓", "1234 ✓", "1234 ✓", None, "1 ✓", "1,234 ✓")),  # comma
    ("#### 1234", "1,234", ("1234 ✓", "1234 ✓", "1234 ✓", "1234 ✓", None, "1234", "1234")),  # comma only in the reference
    ("#### 1,999", "1,234", ("1,999", "1,999", "1999", "1999", None, "1 ✓", "1,999")),  # another number before the comma
    ("#### 1,234,567", "1,234,567", ("1,234,567 ✓", "1,234,567 ✓", "1234567 ✓", "1234", None, "1 ✓", "1,234,567 ✓")),  # two
    ("#### -5", "-5", ("-5 ✓", "-5 ✓", "-5 ✓", "-5 ✓", None, "0 ✓", "-5 ✓")),  # minus
    ("#### -5", "5", ("-5", "-5", "-5", "-5", None, "0", "-5")),  # minus that is wrong
    ("#### -7", "-5", ("-7", "-7", "-7", "-7", None, "0 ✓", "-7")),  # minus, wrong number
    ("#### 145/2", "72", ("145", "2", "145", "72 ✓", None, "145", "145/2")),  # fraction
    ("The answer is: 72/0", "72", (None, "0", None, None, "72 ✓", "0", "72/0")),  # fraction by zero
    ("#### 72%", "72", ("72 ✓", "72 ✓", "72 ✓", "72 ✓", None, "72 ✓", "72 ✓")),  # per cent
    ("#### 7200", "72", ("7200", "7200", "7200", "7200 ✓", None, "7200", "7200")),  # a hundredth
    ("#### 71.6", "72", ("71.6", "71.6", "71.6", "72 ✓", None, "71", "71.6")),  # nearly
    ("#### $72.00", "72", (None, "$72.00", None, "72 ✓", None, "0", "72.00 ✓")),  # dollars and cents
    ("#### 72.", "72", ("72. ✓", "72. ✓", "72.", "72 ✓", None, "72 ✓", "72 ✓")),  # final point
    ("```\n#### 72\n```", "72", ("72 ✓", "72 ✓", "72 ✓", "72 ✓", None, "72 ✓", "72 ✓")),  # code fence
    ("The answer is: \\boxed{72}", "72", (None, "72 ✓", None, "72 ✓", "72 ✓", "0", "\\boxed{72}")),  # answer in brackets
]
# fmt: on


def document(reference: str) -> dict[str, str]:
    return {"question": "How many?", "answer": f"So 70 + 2 = <<70+2=72>>72.\n#### {reference}"}


def test_every_rule_is_in_the_table() -> None:
    assert [rule.name for rule in RULES] == NAMES


@pytest.mark.parametrize(("output", "reference", "wanted"), CASES)
def test_each_rule_reads_what_its_source_reads(output: str, reference: str, wanted: tuple[str | None, ...]) -> None:
    found = []
    for rule in RULES:
        answer = rule.extract(output)
        right = answer is not None and rule.matches(answer, document(reference))
        found.append(None if answer is None else f"{answer} ✓" if right else answer)
    assert tuple(found) == wanted


@pytest.mark.parametrize("name", ["strict-match", "flexible-extract"])
@pytest.mark.parametrize(("output", "reference"), [case[:2] for case in CASES] + [("So $1,234.5.", "1234.5")])
def test_lm_eval_s_rules_are_lm_eval_s(name: str, output: str, reference: str) -> None:
    (steps,) = (entry["filter"] for entry in DEFINITION["filter_list"] if entry["name"] == name)
    settings = {key: value for key, value in steps[0].items() if key != "function"}
    [[filtered]] = RegexFilter(**settings).apply([[output]], [{}])
    (metric,) = DEFINITION["metric_list"]
    kept = {key: metric[key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    theirs = exact_match_hf_evaluate([filtered], [document(reference)["answer"]], **kept)["exact_match"]
    (rule,) = (rule for rule in RULES if rule.name == f"exact_match,{name}")
    answer = rule.extract(output)
    assert (answer or "[invalid]") == filtered
    assert float(answer is not None and rule.matches(answer, document(reference))) == theirs


@pytest.mark.parametrize("output", ["#### " + "9" * 10_000, "The answer is: " + "9" * 10_000, "The answer is: 1e99999"])
def test_endless_numbers_are_wrong(output: str) -> None:
    for rule in RULES:
        answer = rule.extract(output)
        assert answer is None or not rule.matches(answer, document("72"))


def test_recorded_outputs_get_lm_eval_s_metrics() -> None:
    outputs = [{"output": text, "document": document("72")} for text in ("#### 72", "It is 72", "")]
    strict, flexible, *_ = score_outputs("gsm8k", outputs).scores
    assert (strict.metric, strict.primary, strict.value, strict.invalid_rate) == (
        "exact_match,strict-match", True, pytest.approx(1 / 3), pytest.approx(2 / 3),
    )  # fmt: skip
    assert (flexible.metric, flexible.value, flexible.invalid_rate) == (
        "exact_match,flexible-extract", pytest.approx(2 / 3), pytest.approx(1 / 3),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
def test_reference_solutions_are_right_under_every_rule() -> None:
    """In MetaMathQA's form. Number 611 is 1,450,000, of which the pattern of lora-da and milora takes 1,450."""
    rows = pq.read_table(SHARED / "openai/gsm8k/main/test-00000-of-00001.parquet").to_pylist()
    scored = score_outputs(
        "gsm8k",
        [{"id": number, "output": solution_with_phrase(row), "document": row} for number, row in enumerate(rows)],
    )
    wrong = {name: [item.id for item in scored.items if not item.values[name]] for name in scored.items[0].values}
    assert len(scored.items) == 1319
    assert {name: ids for name, ids in wrong.items() if ids} == {"lora-da": ["611"], "milora": ["611"]}
    assert set(NAMES) <= set(wrong)


def test_the_rules_of_all_gsm8k_tasks_are_the_same() -> None:
    named = {name: tasks.get(name) for name in ("gsm8k", *tasks.members("gsm8k-papers"))}
    assert {task.rules for task in named.values()} == {GSM8K_RULES}
    assert [task.primary for task in named.values()] == ["exact_match,strict-match", "lora-da", "lora-ga", "milora"]
