"""Data to train on alone: prompts and rows to the byte, and nothing to score."""

from dataclasses import replace

import pytest
from datasets import Dataset

from hubinit import tasks
from hubinit.data.encode import Example
from hubinit.errors import HubinitError
from hubinit.scoring.evaluate import check_scorable
from hubinit.specs import DataSpec
from tests.texts import save_dataset

HEAD = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
META = {"type": "GSM_SV", "query": "What is 1 plus 1?", "response": "1+1=2.\n#### 2\nThe answer is: 2"}
CASES = {
    "metamath": (META, f"{HEAD}\n\n### Instruction:\nWhat is 1 plus 1?\n\n### Response:", META["response"]),
    "metamath-gsm": (META, "Q: What is 1 plus 1?\nA: ", " 1+1=2.\n#### 2"),
    "metamath-peft": (META, "Question: What is 1 plus 1? Think step by step.\nAnswer:", META["response"]),
    "codefeedback": (
        {"query": "Add.", "answer": "Here:\n```python\nx = 1\n```\nand\n```\ny\n```"},
        f"{HEAD}\n\n### Instruction:\nAdd.\n\n### Response:\n",
        " Here:\n```python\nx = 1\n```",
    ),
    "wizardlm": (
        {"instruction": "Say hi.", "output": "Hi."},
        f"{HEAD}\n\n### Instruction:\nSay hi.\n\n### Response:\n",
        " Hi.",
    ),
    "alpaca": (
        {"instruction": "Say it.", "input": "Hi", "output": "Hi."},
        "### Instruction:\nSay it.\n\n### Input:\nHi\n\n### Response:\n",
        " Hi.",
    ),
}
LEFT_OUT = {
    "metamath-gsm": {**META, "type": "MATH_AnsAug"},
    "metamath-peft": {**META, "response": "x" * 1300},
    "codefeedback": {"query": "Add.", "answer": "No code."},
    "wizardlm": {"instruction": "Say hi.", "output": "As an AI, I can't."},
}


@pytest.mark.parametrize("name", CASES)
def test_each_source_trains_in_its_own_frame(name: str) -> None:
    row, prompt, completion = CASES[name]
    generative = tasks.get(name).generative
    assert generative is not None
    assert generative.training(row) == Example(prompt, completion)


def test_alpaca_without_an_input_has_the_introduction() -> None:
    generative = tasks.get("alpaca").generative
    assert generative is not None
    example = generative.training({"instruction": "Say it.", "input": "", "output": "It."})
    assert example.prompt == f"{HEAD}\n\n### Instruction:\nSay it.\n\n### Response:\n"


@pytest.mark.parametrize("name", LEFT_OUT)
def test_rows_that_the_source_leaves_out_are_not_trained_on(name, tmp_path, monkeypatch) -> None:
    rows = [CASES[name][0], LEFT_OUT[name], CASES[name][0]]
    folder = save_dataset(tmp_path / f"{tmp_path.name}-{name}", "default", {"train": Dataset.from_list(rows)})
    monkeypatch.setitem(tasks.TASKS, name, replace(tasks.get(name), dataset=str(folder)))
    data = DataSpec(tasks=(name,), validation_samples=1)
    examples, validation = tasks.training_examples(data, 0)
    assert [*examples, *validation] == [Example(*CASES[name][1:])] * 2
    assert tasks.training_size(data) == 1


@pytest.mark.parametrize("name", CASES)
def test_they_are_not_scored(name: str) -> None:
    with pytest.raises(HubinitError, match=f"'{name}' is training data with nothing to score"):
        check_scorable(name)


def test_peft_scores_in_the_frame_that_it_trains_in() -> None:
    generative = tasks.get("gsm8k-peft").generative
    assert generative is not None
    row = {"question": META["query"], "answer": "1+1=<<1+1=2>>2\n#### 2"}
    assert generative.prompt(row) == CASES["metamath-peft"][1]
    assert tasks.get("gsm8k-peft").primary == "peft-metamath"
