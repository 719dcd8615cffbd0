"""What show does and prints: the answers behind a score, and where two runs differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from hubinit import tasks
from hubinit.cli.console import say, say_json
from hubinit.errors import HubinitError
from hubinit.hub.answers import Answers, find_answers
from hubinit.records import Item
from hubinit.remote import cached_sha
from hubinit.scoring.outputs import questions_of
from hubinit.scoring.pairs import compare_items, is_right
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Asked
from hubinit.text import one_line

LONGEST = 300  # characters of a text that are printed
SHOWN = 20  # items that are printed


def run_show(
    target: str,
    task: str | None,
    *,
    metric: str | None,
    wrong: bool,
    limit: int | None,
    compare: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Prints the item records of a run, or those on which two runs differ.

    Args:
        target: run, folder or repo.
        task: whose items.
        metric: that says right or wrong. Default: the one that ranks the task.
        wrong: only what the target answered wrong.
        limit: how many items. Default: all as JSON, else 20.
        compare: another run, folder or repo.
        out: folder of results.
        as_json: print JSON.

    Raises:
        HubinitError: there are no such answers, or the two cannot be compared.
    """
    answers = find_answers(target, out, HfApi())
    if compare is None:
        view = view_items(answers, task, metric, wrong)
    else:
        view = view_pairs(answers, find_answers(compare, out, HfApi()), task, metric, wrong)
    asked = read_questions(view.evaluation)
    if as_json:
        head = {"target": target, "evaluation": json.loads(view.evaluation.model_dump_json()), "metric": view.metric}
        say_json(head | view.counts | {"items": [row_json(row, asked) for row in view.rows[:limit]]})
        return
    say(f"{view.evaluation.task}, {one_line(view.metric)}: {view.line}")
    for row in view.rows[: limit or SHOWN]:
        print_row(row, view.metric, asked)
    if (left := len(view.rows) - (limit or SHOWN)) > 0:
        say(f"… and {left} more; --limit {len(view.rows)} or --json shows them.")


@dataclass(frozen=True)
class View:
    """What is shown: counts, for a script and as a line, and rows of one item, or of one item of each of two runs."""

    evaluation: EvalSpec
    metric: str
    counts: dict[str, Any]
    line: str
    rows: Sequence[tuple[Item, ...]]


def view_items(answers: Answers, task: str | None, metric: str | None, wrong: bool) -> View:
    """The items of one run, those of its newest evaluation."""
    evaluation = answers.evaluations(task)[-1]
    items = answers.items(evaluation)
    ranking = answers.primary(evaluation)
    if metric is None and not any(ranking in item.values for item in items):  # BLEU, for one, is of all items together
        line = f"{len(items)} answers, none right or wrong by itself"
        return View(evaluation, ranking, {"n": len(items)}, line, [(item,) for item in items])
    metric = metric or ranking
    right = sum(is_right(item, metric) for item in items)
    rows = [(item,) for item in items if not (wrong and is_right(item, metric))]
    return View(evaluation, metric, {"n": len(items), "right": right}, f"{right} of {len(items)} right", rows)


def view_pairs(first: Answers, second: Answers, task: str | None, metric: str | None, wrong: bool) -> View:
    """The items on which two runs differ, in the newest evaluation that both have."""
    evaluations = first.evaluations(task)
    name = evaluations[-1].task
    common = [one for one in evaluations if one in second.evaluations(name)]
    if not common:
        raise HubinitError(
            f"{first.name} and {second.name} were scored on '{name}' in different ways (revision, limit, shots or "
            "samples), so their answers are not pairs."
        )
    metric = metric or first.primary(common[-1])
    found = compare_items(first.items(common[-1]), second.items(common[-1]), metric)
    counts = {field: getattr(found, field) for field in ("both_right", "only_first", "only_second", "both_wrong", "p")}
    line = (
        f"both right {found.both_right}, only {first.name} {found.only_first}, only {second.name} {found.only_second}, "
        f"both wrong {found.both_wrong}; McNemar's exact p = {found.p:.3g}"
    )
    rows = [pair for pair in found.differing if not (wrong and is_right(pair[0], metric))]
    return View(common[-1], metric, {"compare": second.name, **counts}, line, rows)


def read_questions(evaluation: EvalSpec) -> Mapping[str, Asked]:
    """Question and right answer by id, as far as the task says how to read them and its data are on this machine."""
    task = tasks.TASKS.get(evaluation.task)
    if task is None or task.question is None:
        return {}
    if not Path(task.dataset).is_dir() and cached_sha(task.dataset, "dataset", evaluation.revision) is None:
        return {}
    try:
        documents = questions_of(task, evaluation)
        return {name: task.question(document) for name, document in documents.items()}
    except (HubinitError, KeyError, ValueError, IndexError):  # then the ids must do
        return {}


def row_json(row: Sequence[Item], asked: Mapping[str, Asked]) -> dict[str, Any]:
    """One item, or one item of two runs, with its question."""
    question, right = asked.get(row[0].id, (None, None))
    found = [json.loads(item.model_dump_json()) for item in row]
    kept = found[0] if len(found) == 1 else {"id": row[0].id, "first": found[0], "second": found[1]}
    return {**kept, "question": question, "answer": right}


def print_row(row: Sequence[Item], metric: str, asked: Mapping[str, Asked]) -> None:
    """One item in a few lines: others wrote its texts, so they come without control characters, and cut."""
    question, right = asked.get(row[0].id, ("", ""))
    seen = " (in the training data)" if row[0].seen else ""
    say(f"\n{fold(row[0].id)}{seen}  {fold(question)}")
    if right:
        say(f"    answer: {fold(right)}")
    for item in row:
        value = item.values.get(metric)
        verdict = "answered" if value is None else {1.0: "right", 0.0: "wrong"}.get(value, f"{value:g}")
        taken = item.extracted.get(metric)
        say(f"    {verdict}: {fold(taken) if taken is not None else '(no usable answer)'}")
        if item.outputs and item.outputs[0] != taken:
            say(f"        wrote: {fold(item.outputs[0])}")
        if item.detail:
            say(f"        {fold(item.detail)}")


def fold(text: str) -> str:
    """A text on one line, its end left out where it is long."""
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} … ({len(line) - LONGEST} more characters)"
