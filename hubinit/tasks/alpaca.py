"""The cleaned Alpaca instructions as LoRA-One trains on them."""

from hubinit.data.encode import Example
from hubinit.tasks.instructions import frame, training_data

TASK = training_data(
    "alpaca",
    "Alpaca (cleaned)",
    "yahma/alpaca-cleaned",
    training=lambda row: Example(frame(row["instruction"], row["input"]), f" {row['output']}"),
    source="Taori et al. 2023 (tatsu-lab/stanford_alpaca), cleaned by others; prompt as in zqy0126/LoRA-DA at 0c679c0, data.py "
    "load_alpaca, which goes back to LoRA-One's",
)
