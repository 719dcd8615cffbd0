"""The generative commonsense protocol: prompts to the byte, the first match counts."""

import re
from dataclasses import replace

import pytest
from datasets import load_dataset

from hubinit import tasks
from hubinit.scoring import score_outputs
from hubinit.tasks import llm_adapters, rows
from tests.texts import SHARED

ARC_ROW = {
    "question": "Which is red?",
    "choices": {"text": ["sky", "rose", "snow"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
# The released f-strings (commonsense_evaluate.py, finetune.py) with this row, written out; every line of them is indented.
SCORED = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request. \n"
    "\n"
    "                ### Instruction:\n"
    "                Please choose the correct answer to the question: Which is red?\n"
    "\n"
    "Answer1: sky Answer2: rose Answer3: snow\n"
    "\n"
    "Answer format: answer1/answer2/answer3\n"
    "\n"
    "                ### Response:\n"
    "                "
)
TRAINED = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.  \n"
    "\n"
    "                ### Instruction:\n"
    "                Please choose the correct answer to the question: Which is red?\n"
    "\n"
    "Answer1: sky Answer2: rose Answer3: snow\n"
    "\n"
    "Answer format: answer1/answer2/answer3\n"
    "                \n"
    "                ### Response:\n"
    "                "
)
INSTRUCTIONS = {
    "boolq-gen": (
        {"question": "is it so", "answer": False},
        "Please answer the following question with true or false, question: is it so?\n\nAnswer format: true/false",
        "false",
    ),
    "piqa-gen": (
        {"goal": "Boil", "sol1": "heat", "sol2": "cool", "label": 0},
        "Please choose the correct solution to the question: Boil\n\nSolution1: heat\n\nSolution2: cool\n\n"
        "Answer format: solution1/solution2",
        "solution1",
    ),
    "siqa-gen": (
        {"context": "A left.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"},
        "Please choose the correct answer to the question: A left. Why?\n\nAnswer1: x Answer2: y Answer3: z\n\n"
        "Answer format: answer1/answer2/answer3",
        "answer3",
    ),
    "hellaswag-gen": (
        {"activity_label": "Run", "ctx": "[header] He", "endings": ["a", "b", "c", "d"], "label": "3"},
        "Please choose the correct ending to complete the given sentence: Run: [header] He\n\n"
        "Ending1: a Ending2: b Ending3: c Ending4: d\n\nAnswer format: ending1/ending2/ending3/ending4",
        "ending4",
    ),
    "winogrande-gen": (
        {"sentence": "X saw _.", "option1": "Y", "option2": "Z", "answer": "1"},
        "Please choose the correct answer to fill in the blank to complete the given sentence: X saw _.\n\n"
        "Option1: Y Option2: Z Answer format: option1/option2",
        "option1",
    ),
}


def test_the_frames_are_the_released_ones() -> None:
    generative = tasks.get("arc-easy-gen").generative
    assert generative is not None
    assert generative.prompt(ARC_ROW) == SCORED
    example = generative.training(ARC_ROW)
    assert (example.prompt, example.completion) == (TRAINED, "the correct answer is answer2")
    assert (generative.decoding.beams, generative.decoding.max_new_tokens) == (4, 32)


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_are_the_described_ones(name: str) -> None:
    row, instruction, answer = INSTRUCTIONS[name]
    generative = tasks.get(name).generative
    assert generative is not None
    assert (
        generative.prompt(row)
        == SCORED[: SCORED.index("Please")] + instruction + SCORED[SCORED.index("\n\n                ### R") :]
    )
    assert generative.training(row).completion == f"the correct answer is {answer}"


# task, output, what is read
CASES = [
    ("arc-easy-gen", "the correct answer is answer2", "answer2"),
    ("arc-easy-gen", "answer1 or answer2", "answer1"),
    ("arc-easy-gen", "no, not answer1. answer2!", "answer1"),  # a later correction does not count
    ("arc-easy-gen", "Answer2", None),  # case counts
    ("arc-easy-gen", "2", None),
    ("arc-easy-gen", "answer 2", None),
    ("arc-easy-gen", "answer22", "answer2"),
    ("arc-easy-gen", "answer9", None),
    ("arc-easy-gen", "", None),
    ("arc-easy-gen", "\n\n  \tanswer3\n", "answer3"),
    ("arc-easy-gen", "```\nanswer4\n```", "answer4"),
    ("arc-easy-gen", "ａｎｓｗｅｒ２ – answer5", "answer5"),
    ("arc-easy-gen", "answ### Response:\nanswer2", None),  # the text after a second heading is another piece
    ("boolq-gen", "untrue", "true"),
    ("boolq-gen", "True", None),
    ("boolq-gen", "false, no: true", "false"),
    ("piqa-gen", "solution2", "solution2"),
    ("piqa-gen", "answer2", None),
    ("hellaswag-gen", "ending0 ending3", "ending3"),
    ("winogrande-gen", "Option1 option2", "option2"),
]


PROMPT = llm_adapters.frame("Is answer1 or answer2 right?")  # holds answers itself
CLEAN = re.sub(r"^ +", "", PROMPT, flags=re.MULTILINE)  # as others write the frame
CASES += [
    ("arc-easy-gen", f"{PROMPT}the correct answer is answer3", "answer3"),  # prompt and answer
    ("arc-easy-gen", f"<s> {PROMPT}answer3</s>", "answer3"),  # with the tokenizer's marks
    ("arc-easy-gen", f"<|begin_of_text|>{PROMPT}answer3", "answer3"),
    ("arc-easy-gen", f"\n{CLEAN}answer3", "answer3"),
    ("arc-easy-gen", f"{PROMPT}answer3\n\n### Response:\nanswer4", "answer3"),  # it went on
    ("arc-easy-gen", f"{PROMPT}\n### Response:\nanswer4", None),  # the released code takes the piece that is empty
    ("arc-easy-gen", PROMPT, None),  # an empty answer
    ("arc-easy-gen", PROMPT.partition("### Response:")[0], None),  # cut off before any answer
    ("arc-easy-gen", "answer3\n\n### Response:\nanswer4", "answer3"),  # the answer alone, and it went on
    ("arc-easy-gen", "\n\n### Instruction:\nIs answer1 right?\n\n### Response:\nanswer4", "answer1"),  # it asks itself
    ("arc-easy-gen", f"answer3\n{PROMPT}answer4", "answer3"),  # the frame comes after the answer
    ("arc-easy-gen", "### Response:\nanswer4", None),  # only the beginning of the prompt tells an echo
    ("boolq-gen", f"{llm_adapters.frame('Answer format: true/false')}false", "false"),
]


@pytest.mark.parametrize(("name", "output", "answer"), CASES)
def test_the_first_match_is_the_answer(name: str, output: str, answer: str | None) -> None:
    (rule,) = tasks.get(name).rules
    assert rule.extract(output) == answer


def test_outputs_are_scored_and_invalid_ones_counted() -> None:
    outputs = ["the correct answer is answer2", "answer1", "I do not know", "answer2 answer1"]
    scored = score_outputs("arc-easy-gen", [{"output": text, "document": ARC_ROW} for text in outputs])
    (score,) = scored.scores
    assert (score.metric, score.primary, score.value, score.invalid_rate) == ("acc", True, 0.5, 0.25)
    assert [item.extracted.get("acc") for item in scored.items] == ["answer2", "answer1", None, "answer2"]


NAMES = {"arc_e": "arc-easy", "arc_c": "arc-challenge", "obqa": "openbookqa", "social_i_qa": "siqa"}


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
def test_real_training_rows_are_those_of_the_mixture() -> None:
    """The mixture was made by another formatter, which reproduced the released files byte for byte."""
    mixture = load_dataset(str(SHARED / "derived" / "commonsense_mixture"), split="train").to_pandas()
    for source, wanted in mixture.groupby("dataset"):
        task = tasks.get(f"{NAMES.get(source, source)}-gen")
        local = replace(task, dataset=str(SHARED / task.dataset), train_configs=task.train_configs[:1])
        split = rows.training_split(local, None)
        examples = (split.example(row) for row in range(len(split)))
        made = {(example.prompt.split("Instruction:\n" + 16 * " ")[1], example.completion) for example in examples}
        end = f"\n{16 * ' '}\n{16 * ' '}### Response:\n{16 * ' '}"
        missing = [row.instruction for row in wanted.itertuples() if (row.instruction + end, row.output) not in made]
        # The development copy holds 8,000 of HellaSwag's 39,905 training rows, others than the mixture was drawn from.
        assert len(missing) <= (len(wanted) / 2 if source == "hellaswag" else 0), missing[0]
