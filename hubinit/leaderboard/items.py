"""What each run scored on each question: the values behind a score, by which two runs are paired."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hubinit.leaderboard.paired import Array
from hubinit.records import read_values

SCHEMA = pa.schema(
    {
        "items": pa.string(),  # sha256 of the item records, as in the runs' column of that name
        "metric": pa.string(),
        "questions": pa.string(),  # names ids and prompts: two rows are paired where it is the same
        "values": pa.list_(pa.float32()),  # in the order of the ids
    }
)


class Answered(NamedTuple):
    """The values of one metric of one evaluation.

    Attributes:
        questions: names the ids and prompts.
        values: [items], in the order of the ids.
    """

    questions: str
    values: Array


Items = dict[tuple[str, str], Answered]  # (sha256 of the item records, metric) ─► values


def read_answered(path: Path, sha256: str, metric: str) -> Answered | None:
    """The values of one metric in a file of item records; None where some item has none (BLEU is of all items together).

    Raises:
        HubinitError: the file is missing, damaged, or not the one that the score was made from.
    """
    found = read_values(path, sha256, metric)
    if found is None:
        return None
    ids, prompts, values = found
    order = sorted(range(len(ids)), key=ids.__getitem__)
    questions = hashlib.sha256("\n".join(f"{ids[one]}\t{prompts[one]}" for one in order).encode()).hexdigest()[:16]
    return Answered(questions, np.asarray(values, dtype=np.float32).astype(np.float64)[order])


def items_table(items: Items) -> pa.Table:
    """The values as a table, in the order of their names."""
    lines = sorted(items)
    return pa.table(
        {
            "items": [name for name, _ in lines],
            "metric": [metric for _, metric in lines],
            "questions": [items[line].questions for line in lines],
            "values": [items[line].values.astype(np.float32) for line in lines],
        },
        schema=SCHEMA,
    )


def read_table(table: pa.Table) -> Items:
    """The values in a table from `items_table`."""
    columns = (table.column(name).to_pylist() for name in ("items", "metric", "questions"))
    values = table.column("values").combine_chunks()
    flat, ends = values.values.to_numpy().astype(np.float64), values.offsets.to_numpy()
    return {
        (name, metric): Answered(questions, flat[start:end])
        for name, metric, questions, start, end in zip(*columns, ends[:-1], ends[1:], strict=True)
    }
