"""Results that a stranger hands in: read within limits, held against each other, and never executed or trusted.

A submission is a folder as `hubinit bench --out` writes it, of which only `runs/<key>/result.json` and
`runs/<key>/items/*.parquet` are read. Names and sizes are checked before a file is opened.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pandas as pd
from pydantic import ValidationError

from hubinit.errors import HubinitError, first_line
from hubinit.leaderboard import table as runs_table
from hubinit.leaderboard.rows import SHARES, RunRow
from hubinit.paths import open_regular
from hubinit.records import ITEMS, SCHEMA_VERSION, Item, RunResult, Score, expected_key, items_name, read_items
from hubinit.secrets import holds_secret
from hubinit.specs import NO_ADAPTER
from hubinit.text import one_line

RESULT_BYTES = 5_000_000  # of one result.json: a curve of 10,000 points has 1 MB
ITEMS_BYTES = 64_000_000  # of one file of item records, packed
RUNS = 2_000  # of one submission
FILES = 20_000
CLOSE = 1e-6  # of a score to the mean of its items
OF_THE_SET = ("bleu", "nist", "meteor")  # metrics whose names begin so are of all texts together, not a mean of theirs
SHOWN = 300  # characters of a reason
KEY = re.compile(r"[0-9a-f]{16}")
COMMIT = re.compile(r"[0-9a-f]{40}")
REPO = re.compile(r"\w[\w.-]*(/[\w.-]+)?", re.ASCII)
NAMES = re.compile(r"runs/[0-9a-f]{16}/(result\.json|items/[a-z0-9-]+\.parquet)")


@dataclass
class Submitted:
    """One run of a submission, and what was found about it.

    Attributes:
        key: the name of its folder.
        result: None where it cannot be read.
        items: by name of the file; of those that could be read.
        wrong: reasons to reject it.
        notes: what could not be checked, or what a reader should know.
        checks: what was found to be right.
    """

    key: str
    result: RunResult | None = None
    items: dict[str, list[Item]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    def evaluations(self) -> Iterator[tuple[list[Score], list[Item]]]:
        """The scores of each evaluation with its items, where these could be read."""
        by_file: dict[str, list[Score]] = {}
        for score in self.result.scores if self.result else ():
            by_file.setdefault(items_name(score.eval), []).append(score)
        for name, scores in by_file.items():
            if name in self.items:
                yield scores, self.items[name]


def list_submission(folder: Path) -> tuple[list[str], list[str]]:
    """The files of a submission, and what is wrong with the folder; nothing is opened or followed.

    Returns:
        The names of files that may be read, and a reason for each other one below `runs/`, or for all of it.
    """
    good: list[str] = []
    wrong: list[str] = []
    if (folder / "runs").is_symlink():
        return [], ["runs is a link"]
    seen = 0
    for root, folders, files in os.walk(folder / "runs"):
        seen += len(folders) + len(files)
        for entry in (*folders, *files):
            path = Path(root, entry)
            name = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                wrong.append(f"{_shown(name)} is a link")
            elif stat.S_ISREG(mode) and NAMES.fullmatch(name):
                reason = size_problem(name, path.lstat().st_size)
                wrong.append(f"{name} {reason}") if reason else good.append(name)
            elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                wrong.append(f"{_shown(name)} is not a file")
        if seen > FILES:
            return [], [f"it has more than {FILES} files"]
    return sorted(good), sorted(wrong)


def size_problem(name: str, size: int) -> str | None:
    """Why a file of this size is not read."""
    limit = RESULT_BYTES if name.endswith(".json") else ITEMS_BYTES
    return f"has {size} bytes, more than {limit}" if size > limit else None


def read_submission(folder: Path, then: Callable[[Submitted], None] = lambda run: None) -> list[Submitted]:
    """Reads the runs of a submission and checks each by itself.

    Args:
        folder: whose `runs/` is read.
        then: called with each run once it is read; what drops its items keeps the memory to that of one run.

    Raises:
        HubinitError: there is not a single run, or far too many.
    """
    names, wrong = list_submission(folder)
    keys = sorted({name.split("/")[1] for name in names if name.endswith("/result.json")})
    if len(keys) > RUNS:
        raise HubinitError(f"{folder} holds {len(keys)} runs, more than the {RUNS} of one submission; hand in parts.")
    if not keys and not wrong:
        raise HubinitError(f"{folder} holds no runs/<key>/result.json; give a folder that `hubinit bench --out` wrote.")
    runs = [Submitted("", wrong=wrong)] if wrong else []
    for key in keys:
        run = read_run(folder, key, [name for name in names if name.split("/")[1] == key])
        then(run)
        runs.append(run)
    return runs


def read_run(folder: Path, key: str, names: Sequence[str]) -> Submitted:
    """One run of a submission, checked by itself: its form, its ranges, and its scores against its items."""
    run = Submitted(key)
    try:
        run.result = parse_result(folder / "runs" / key / "result.json", key)
    except (HubinitError, OSError) as error:
        run.wrong.append(_shown(first_line(error)))
        return run
    run.wrong += [*_ranges(run.result), *_provenance(run.result)]
    if run.result.provenance.git_dirty:
        run.notes.append("its code had changes that are not in git")
    wanted = {items_name(score.eval): score.items for score in run.result.scores}
    for name in (name.rsplit("/", 1)[1] for name in names if f"/{ITEMS}/" in name):
        if name not in wanted:
            run.notes.append(f"{name} belongs to none of its scores and was not read")
            continue
        try:
            run.items[name] = read_items(folder / "runs" / key / ITEMS / name, wanted[name])
        except HubinitError as error:
            run.wrong.append(_shown(f"{name}: {first_line(error.__cause__ or error)}"))
    missing = sorted(wanted.keys() - run.items.keys())
    run.wrong += [f"the item records {name} are not there, so its score cannot be checked" for name in missing]
    for scores, items in run.evaluations():
        run.wrong += [_shown(reason) for reason in _against_items(scores, items)]
    if not run.wrong:
        run.checks.append("form and ranges" + (", scores are those of the items" if run.items else ""))
    return run


def parse_result(path: Path, key: str) -> RunResult:
    """One result of a stranger, of this version or an older one.

    Raises:
        HubinitError: it is not one, of a newer version, edited, or holds what looks like an access token.
        OSError: it is not a regular file.
    """
    with open_regular(path) as file:
        content = file.read(RESULT_BYTES + 1)
    if len(content) > RESULT_BYTES:
        raise HubinitError(f"result.json has more than {RESULT_BYTES} bytes.")
    try:
        text = content.decode()
        raw = json.loads(text, parse_constant=_no_number)
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
        version = raw.get("schema_version", 1)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ValueError("a newer hubinit wrote it")
        result = RunResult.model_validate(raw)
        real = expected_key(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise HubinitError(f"result.json: {one_line(place)}: {first['msg']}.") from error
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise HubinitError(f"result.json: {first_line(error)}.") from error
    if result.key != real or key != real:
        raise HubinitError("result.json was edited or moved: its key does not match its specification.")
    if holds_secret(text):
        raise HubinitError("result.json holds what looks like an access token.")
    return result


def settle(runs: Sequence[Submitted], standing: pd.DataFrame) -> pd.DataFrame:
    """Holds the runs against the rows of the leaderboard and against each other; `wrong` and `notes` say what was found.

    Returns:
        The rows that the submission would add, columns of `RunRow`.
    """
    good = [run for run in runs if run.result is not None and not run.wrong]
    claims = runs_table.table(run.result for run in good if run.result is not None)
    together = pd.concat([standing, claims], ignore_index=True) if len(standing) else claims
    _, contending = runs_table.settle(together)
    by_key = {run.key: run for run in good}
    for position, reason in sorted(contending.items()):
        if position >= len(standing):
            row = together.iloc[position]
            by_key[row["key"]].wrong.append(_shown(f"{row['task']} {row['metric']}: {reason}"))
    names = runs_table.IDENTITY
    there = {
        tuple(row) for row in standing[names].astype(object).where(standing[names].notna(), None).to_numpy().tolist()
    }
    plain = claims[names].astype(object).where(claims[names].notna(), None).to_numpy().tolist()
    old = [tuple(row) in there for row in plain]
    for run in good:
        mine = [known for known, row in zip(old, plain, strict=True) if row[0] == run.key]
        if all(mine) and not run.wrong:
            run.notes.append("the leaderboard has it already")
    wrong = {run.key for run in runs if run.wrong}
    return claims[[not known and row[0] not in wrong for known, row in zip(old, plain, strict=True)]]


def _ranges(result: RunResult) -> Iterator[str]:
    """What no result can be, whoever made it."""
    try:
        rows = runs_table.rows([result])
    except (ValueError, ArithmeticError) as error:
        yield _shown(f"its curve or costs are not numbers: {first_line(error)}")
        return
    for row in rows:
        try:
            RunRow.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            yield _shown(f"{row.get('task')}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    if not REPO.fullmatch(result.spec.model.id):
        yield "its base is not a model on a Hub"
    for revision in (result.spec.model.revision, *(score.eval.revision for score in result.scores)):
        if revision is not None and not COMMIT.fullmatch(revision):
            yield "a revision is not the 40 hex digits of a commit"
    if result.status in ("ok", "partial") and not result.scores:
        yield "it has no score, and does not say that it failed"
    seen = [(score.eval, score.metric) for score in result.scores]
    if len(set(seen)) < len(seen):
        yield "it has two scores of one metric and evaluation"
    for score in result.scores:
        if score.items is None:
            yield _shown(f"{score.task} {score.metric}: it names no item records (hubinit 0.2 or earlier)")
        if not math.isfinite(score.value):
            yield _shown(f"{score.task} {score.metric}: the score is not a number")
        if score.eval.limit is not None and score.n > score.eval.limit:
            yield _shown(f"{score.task} {score.metric}: {score.n} questions, more than its limit {score.eval.limit}")
        if score.contaminated is not None and score.contaminated > score.n:
            yield _shown(f"{score.task} {score.metric}: more contaminated questions than questions")


def _provenance(result: RunResult) -> Iterator[str]:
    """What is missing to know where the numbers come from."""
    found = result.provenance
    if not found.command.strip():
        yield "its provenance names no command"
    if missing := sorted({"hubinit", "torch"} - found.versions.keys()):
        yield f"its provenance names no version of {' and '.join(missing)}"
    if not found.hardware:
        yield "its provenance names no hardware"
    if result.spec.method.name not in NO_ADAPTER and result.adapter_sha256 is None and result.scores:
        yield "it names no adapter (sha256 of its weights)"


def _against_items(scores: Sequence[Score], items: Sequence[Item]) -> Iterator[str]:
    """Scores that are not those of their items."""
    if len({item.id for item in items}) < len(items):
        yield f"{scores[0].task}: two items have one id"
    for score in scores:
        where = f"{score.task} {score.metric}"
        values = [item.values[score.metric] for item in items if score.metric in item.values]
        if any(not math.isfinite(value) for value in values):
            yield f"{where}: an item's value is not a number"
            continue
        if score.metric.startswith(SHARES) and any(not 0 <= value <= 1 for value in values):
            yield f"{where}: an item's value is not between 0 and 1"
        if not values:  # of some of the items (`acc,unseen`, `acc,level=1`), or of all as one text
            if score.n > len(items):
                yield f"{where}: {score.n} questions, but {len(items)} items"
            continue
        if score.n != len(values):
            yield f"{where}: {score.n} questions, but {len(values)} items with a value"
        mean = math.fsum(values) / len(values)
        if not score.metric.startswith(OF_THE_SET) and abs(mean - score.value) > CLOSE * max(1.0, abs(mean)):
            yield f"{where}: the score is {score.value:.6g}, but its items give {mean:.6g}"


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _shown(text: str) -> str:
    return one_line(text)[:SHOWN]
