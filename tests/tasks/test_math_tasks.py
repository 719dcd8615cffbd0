"""Tasks of mathematics: prompts and training text to the byte, joined configurations, scores of parts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.errors import HubinitError
from hubinit.scoring import score_outputs
from hubinit.specs import DataSpec
from hubinit.tasks import rows
from hubinit.tasks.gsm8k_papers import solution_with_phrase
from hubinit.tasks.llm_adapters import frame
from tests.texts import SHARED, save_dataset

GSM8K = {"question": "What is 70 plus 2?", "answer": "It is 70+2=<<70+2=72>>72.\n#### 72"}
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nWhat is 70 plus 2?\n\n### Response:"
)
STEPS = f"{ALPACA} Let's think step by step."
QA = "Q: What is 70 plus 2?\nA: "
SOLUTION = "It is 70+2=72.\n#### 72"
STOPS = ("Instruction:", "Instruction", "Response:", "Response")


@pytest.mark.parametrize(
    ("name", "prompt", "trained", "completion", "temperature", "stop"),
    [
        ("gsm8k-lora-da", STEPS, QA, f" {SOLUTION}", 0.0, STOPS),
        ("gsm8k-lora-ga", QA, QA, f" {SOLUTION}", 0.8, ()),
        ("gsm8k-milora", STEPS, ALPACA, f"{SOLUTION}\nThe answer is: 72", 0.0, STOPS),
    ],
)
def test_each_paper_asks_and_trains_in_its_own_frame(
    name: str, prompt: str, trained: str, completion: str, temperature: float, stop: tuple[str, ...]
) -> None:
    generative = tasks.get(name).generative
    assert generative is not None
    assert generative.prompt(GSM8K) == prompt
    assert generative.training(GSM8K) == Example(trained, completion)
    decoding = generative.decoding
    assert (decoding.max_new_tokens, decoding.beams, decoding.temperature, decoding.stop) == (
        1024,
        1,
        temperature,
        stop,
    )


RESPONSE = "\n\n                ### Response:\n                "
ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "svamp": (
        {"Body": "Each pack costs 76 dollars. There is a discount of 25 dollars ", "Question": "How much is it?",
         "Answer": "51.0"},
        "Each pack costs 76 dollars. There is a discount of 25 dollars. How much is it?",
        "The answer is 51.",
    ),
    "mawps": ({"question": "How many are 1 and 0.5? ", "result_float": 1.5}, "How many are 1 and 0.5?", "The answer is 1.5."),
    "aqua": (
        {"question": "What is 3 times 7?", "options": ["A)20", "B)21", "C)(22)"], "correct": "B"},
        "What is 3 times 7? Answer Choices: (A) 20 (B) 21 (C) (22)",
        "The answer is (B).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_short_problems_are_asked_in_the_frame_of_llm_adapters(name: str) -> None:
    row, instruction, completion = ROWS[name]
    generative = tasks.get(name).generative
    assert generative is not None
    assert generative.prompt(row).endswith(f"### Instruction:\n                {instruction}{RESPONSE}")
    assert generative.training(row).completion == completion
    assert (generative.decoding.beams, generative.decoding.max_new_tokens) == (4, 256)


# task, output, what is read, whether it is right
CASES = [
    ("svamp", "76 - 25 = 51. The answer is 51.", "51.", True),
    ("svamp", "It is 51.0009", "51.0009", True),
    ("svamp", "It is 51.002", "51.002", False),
    ("svamp", "It is 51, not 50", "50", False),
    ("svamp", "fifty-one", None, False),
    ("svamp", "", None, False),
    ("svamp", "```\n51\n```\nor so", "51", True),
    ("svamp", "76-51", "-51", False),  # a minus that subtracts
    ("svamp", "51\n\n### Response:\n7", "51", True),
    ("svamp", f"{frame('76 - 25?')}51", "51", True),  # the prompt is repeated
    ("svamp", frame("76 - 25?"), None, False),
    ("aqua", f"{frame('Is it (A) or (B)?')}(B)", "B", True),
    ("svamp", "答案是51。", "51", True),
    ("svamp", "9" * 5000, "9" * 5000, False),
    ("mawps", "1,5", "15", False),
    ("mawps", "$1.50", "1.50", True),
    ("mawps", "3/2", "2", False),
    ("aqua", "The answer is (B).", "B", True),
    ("aqua", "B or C", "B", True),
    ("aqua", "A rule says: B", "A", False),
    ("aqua", "Clearly B", "C", False),  # a capital inside a word
    ("aqua", "b", None, False),
    ("aqua", "21", None, False),
]


@pytest.mark.parametrize(("name", "output", "read", "right"), CASES)
def test_numbers_and_letters_are_read_as_by_llm_adapters(name: str, output: str, read: str | None, right: bool) -> None:
    (item,) = score_outputs(name, [{"output": output, "document": ROWS[name][0]}]).items
    assert item.extracted.get("acc") == read
    assert item.values["acc"] == right


def problem(index: int, **columns: Any) -> dict[str, Any]:
    return {"problem": f"{index}?", "solution": f"So \\boxed{{{index}}}.", **columns}


@pytest.fixture
def math(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MATH with three subjects of two training and two test problems each."""
    subjects = tasks.get("math").test_configs[:3]
    folder, cards = tmp_path / f"{tmp_path.name}-math", []
    for number, subject in enumerate(subjects):
        made = [problem(10 * number + index, type=subject.title(), level=f"Level {index}") for index in range(4)]
        splits = {"train": Dataset.from_list(made[:2]), "test": Dataset.from_list(made[2:])}
        save_dataset(folder, subject, splits)
        cards.append((folder / "README.md").read_text().split("---")[1].removeprefix("\nconfigs:\n"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(cards)}---\n")
    local = replace(tasks.get("math"), dataset=str(folder), train_configs=subjects, test_configs=subjects)
    monkeypatch.setitem(tasks.TASKS, "math", local)


@pytest.mark.usefixtures("math")
def test_all_subjects_are_trained_on_and_scored() -> None:
    examples, _ = tasks.training_examples(DataSpec(tasks=("math",)), 0)
    assert {example.completion for example in examples} == {f" So \\boxed{{{i}}}." for i in (0, 1, 10, 11, 20, 21)}
    documents = rows.read_documents(tasks.get("math"), None)
    assert [document["problem"] for document in documents.values()] == ["2?", "3?", "12?", "13?", "22?", "23?"]
    assert list(documents) == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.usefixtures("math")
def test_parts_are_scored_by_subject_and_level() -> None:
    scored = score_outputs("math", [f"\\boxed{{{number}}}" for number in (2, 3, 12, 0, 0)] + ["no"])
    parts = {score.metric: score for score in scored.scores if "=" in score.metric}
    values = {name: (score.value, score.n, score.invalid_rate) for name, score in parts.items()}
    third = pytest.approx(1 / 3)
    assert values == {
        "hendrycks,type=Algebra": (1.0, 2, 0.0),
        "hendrycks,type=Counting_And_Probability": (0.5, 2, 0.0),
        "hendrycks,type=Geometry": (0.0, 2, 0.5),
        "hendrycks,level=Level 2": (pytest.approx(2 / 3), 3, 0.0),
        "hendrycks,level=Level 3": (third, 3, third),
    }
    assert [score.metric for score in scored.scores if score.primary] == ["hendrycks"]
    (whole,) = (score for score in scored.scores if score.primary)
    assert (whole.value, whole.n) == (0.5, 6)


def test_a_task_without_a_training_split_is_for_scoring_only() -> None:
    with pytest.raises(HubinitError, match="'math-500' has no training data"):
        tasks.training_examples(DataSpec(tasks=("math-500",)), 0)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("math-500", {}),
        ("math-500", {"solution": "no box"}),
        ("gsm8k", {"question": "?"}),
        ("gsm8k-milora", {"answer": "#### many"}),
        ("svamp", {"Answer": "many"}),
        ("svamp", {"Answer": None}),
        ("aqua", {"correct": None, "options": 1}),
    ],
)
def test_a_document_of_another_kind_is_one_sentence(name: str, document: dict[str, Any]) -> None:
    output = "\\boxed{1} A\n#### 1\nThe answer is: 1"
    if name == "aqua":
        assert score_outputs(name, [{"output": output, "document": document}]).scores[0].value == 0.0
        return
    with pytest.raises(HubinitError, match=f"Question '[0-9a-f]+' is not one of '{name}'"):
        score_outputs(name, [{"output": output, "document": document}])


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
def test_gsm8k_in_metamathqa_s_form_is_the_same_as_another_formatter_s() -> None:
    theirs = pq.read_table(SHARED / "derived/metamath_style_gsm8k/default/train-00000-of-00001.parquet").to_pylist()
    ours = pq.read_table(SHARED / "openai/gsm8k/main/train-00000-of-00001.parquet").to_pylist()
    made = {(row["question"], solution_with_phrase(row)) for row in ours}
    assert {(row["query"], row["response"]) for row in theirs} == made


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
def test_answers_in_the_data_of_llm_adapters_are_right_as_they_are_taught() -> None:
    data = pq.read_table(SHARED / "derived/llm_adapters_math_data/default/train-00000-of-00001.parquet").to_pylist()
    numbers = [row["answer"] for row in data if row["answer"] not in set("ABCDE")]
    lines = [{"output": f"The answer is {number}.", "document": {"Answer": number}} for number in numbers]
    assert len(numbers) > 2000
    assert score_outputs("svamp", lines).scores[0].value == 1.0
