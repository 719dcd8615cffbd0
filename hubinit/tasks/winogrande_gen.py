"""WinoGrande, answered in free text.

The 63,238 training rows of commonsense_170k are the training splits of all six configurations together, so most rows occur in
several sizes: a fact of the published mixture.
"""

from hubinit.tasks.llm_adapters import answer_format, commonsense_task, numbered
from hubinit.tasks.questions import blank

TASK = commonsense_task(
    "winogrande-gen",
    "WinoGrande (generative)",
    "allenai/winogrande",
    config="winogrande_xl",
    train_configs=tuple(f"winogrande_{size}" for size in ("xl", "l", "m", "s", "xs", "debiased")),
    test_split="validation",
    words=("option1", "option2"),
    question=blank,
    instruction=lambda row: (
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        f"{row['sentence']}\n\n{numbered('Option', [row['option1'], row['option2']])} {answer_format('option', 2)}"
    ),
    answer=lambda row: f"option{row['answer']}",
)
