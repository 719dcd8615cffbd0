"""WizardLM's instructions as LoRA-GA trains on them, without answers that refuse."""

from hubinit.data.encode import Example
from hubinit.tasks.instructions import frame, training_data

REFUSALS = ("sorry", "as an ai")

TASK = training_data(
    "wizardlm",
    "WizardLM",
    "silk-road/Wizard-LM-Chinese-instruct-evol",
    training=lambda row: Example(frame(row["instruction"]), f" {row['output']}"),
    keep=lambda row: not any(word in row["output"].lower() for word in REFUSALS),
    source="Xu et al. 2023 (arXiv 2304.12244); the English columns, rows and prompt as in Outsider565/LoRA-GA at 7cbdd68, "
    "reproduce/data.py load_wizardlm",
)
