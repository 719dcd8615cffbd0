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
from hubinit.scoring.pairs import compare_items, compare_outputs, have_verdicts, is_right
from hubinit.specs import EvalSpec
from hubinit.tasks.spec import Task
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
        print_row(row, view, asked)
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
    verdicts: bool = True  # whether each item is right or wrong


def view_items(answers: Answers, task: str | None, metric: str | None, wrong: bool) -> View:
    """The items of one run, those of its newest evaluation.

    Raises:
        HubinitError: there are none, or only the wrong ones are wanted of answers that are neither right nor wrong.
    """
    evaluation = answers.evaluations(task)[-1]
    items = answers.items(evaluation)
    chosen = metric or answers.primary(evaluation)
    if has_metric(answers, evaluation, items, chosen) and not have_verdicts(known(evaluation), items, chosen):
        check_wrong(wrong, evaluation, chosen)
        total = answers.total(evaluation, chosen)
        line = f"{len(items)} answers, none right or wrong by itself" + (f"; together {total:.4f}" if total else "")
        return View(evaluation, chosen, {"n": len(items), "value": total}, line, [(item,) for item in items], False)
    right = sum(is_right(item, chosen) for item in items)
    rows = [(item,) for item in items if not (wrong and is_right(item, chosen))]
    return View(evaluation, chosen, {"n": len(items), "right": right}, f"{right} of {len(items)} right", rows)


def view_pairs(first: Answers, second: Answers, task: str | None, metric: str | None, wrong: bool) -> View:
    """The items on which two runs differ, in the newest evaluation that both have.

    Raises:
        HubinitError: there is not one, or only the wrong ones are wanted of answers that are neither right nor wrong.
    """
    evaluations = first.evaluations(task)
    name = evaluations[-1].task
    common = [one for one in evaluations if one in second.evaluations(name)]
    if not common:
        raise HubinitError(
            f"{first.name} and {second.name} were scored on '{name}' in different ways (revision, limit, shots or "
            "samples), so their answers are not pairs."
        )
    evaluation = common[-1]
    metric = metric or first.primary(evaluation)
    one, other = first.items(evaluation), second.items(evaluation)
    if has_metric(first, evaluation, one, metric) and not have_verdicts(known(evaluation), [*one, *other], metric):
        check_wrong(wrong, evaluation, metric)
        differences = compare_outputs(one, other, metric)
        counts = {field: getattr(differences, field) for field in ("n", "same", "first_higher", "second_higher")}
        line = (
            f"{differences.n - differences.same} of {differences.n} outputs differ; higher by itself: {first.name} "
            f"{differences.first_higher}, {second.name} {differences.second_higher}"
        )
        return View(evaluation, metric, {"compare": second.name, **counts}, line, differences.differing, False)
    found = compare_items(one, other, metric)
    counts = {field: getattr(found, field) for field in ("both_right", "only_first", "only_second", "both_wrong", "p")}
    line = (
        f"both right {found.both_right}, only {first.name} {found.only_first}, only {second.name} {found.only_second}, "
        f"both wrong {found.both_wrong}; McNemar's exact p = {found.p:.3g}"
    )
    rows = [pair for pair in found.differing if not (wrong and is_right(pair[0], metric))]
    return View(evaluation, metric, {"compare": second.name, **counts}, line, rows)


def known(evaluation: EvalSpec) -> Task | None:
    """The task of an evaluation; None where this version does not know it."""
    return tasks.TASKS.get(evaluation.task)


def has_metric(answers: Answers, evaluation: EvalSpec, items: Sequence[Item], metric: str) -> bool:
    """Whether a metric is one of an evaluation: of its items, or of all of them together."""
    return answers.total(evaluation, metric) is not None or any(metric in item.values for item in items)


def check_wrong(wrong: bool, evaluation: EvalSpec, metric: str) -> None:
    """Refuses to look for wrong answers where none is right or wrong.

    Raises:
        HubinitError: it is so.
    """
    if wrong:
        raise HubinitError(f"By {metric}, no answer to '{evaluation.task}' is right or wrong; leave out --wrong.")


@dataclass(frozen=True)
class Question:
    """What was asked, the right answer, and the texts that an answer is compared with."""

    text: str | None = None
    right: str | None = None
    references: tuple[str, ...] = ()


def read_questions(evaluation: EvalSpec) -> Mapping[str, Question]:
    """The questions by id, as far as the task says how to read them and its data are on this machine."""
    task = known(evaluation)
    if task is None or task.question is None:
        return {}
    if not Path(task.dataset).is_dir() and cached_sha(task.dataset, "dataset", evaluation.revision) is None:
        return {}
    try:
        documents = questions_of(task, evaluation)
        return {
            name: Question(*task.question(document), tuple(document.get("references", ())))
            for name, document in documents.items()
        }
    except (HubinitError, KeyError, ValueError, IndexError, TypeError):  # then the ids must do
        return {}


def row_json(row: Sequence[Item], asked: Mapping[str, Question]) -> dict[str, Any]:
    """One item, or one item of two runs, with its question."""
    question = asked.get(row[0].id, Question())
    found = [json.loads(item.model_dump_json()) for item in row]
    kept = found[0] if len(found) == 1 else {"id": row[0].id, "first": found[0], "second": found[1]}
    references = {"references": list(question.references)} if question.references else {}
    return {**kept, "question": question.text, "answer": question.right, **references}


def print_row(row: Sequence[Item], view: View, asked: Mapping[str, Question]) -> None:
    """One item in a few lines: others wrote its texts, so they come without control characters, and cut."""
    question = asked.get(row[0].id, Question())
    seen = " (in the training data)" if row[0].seen else ""
    say(f"\n{fold(row[0].id)}{seen}  {fold(question.text or '')}")
    if question.right:
        say(f"    answer: {fold(question.right)}")
    for reference in question.references:
        say(f"    reference: {fold(reference)}")
    for item in row:
        print_item(item, view)


def print_item(item: Item, view: View) -> None:
    """What one run answered."""
    value, taken = item.values.get(view.metric), item.extracted.get(view.metric)
    if view.verdicts and value is not None:
        verdict = {1.0: "right", 0.0: "wrong"}.get(value, f"{value:g}")
        say(f"    {verdict}: {fold(taken) if taken is not None else '(no usable answer)'}")
    shown = item.outputs if not view.verdicts else item.outputs[:1]
    for number, output in enumerate(shown):
        if output != taken or not view.verdicts:
            by_itself = (
                "" if view.verdicts or number or value is None else f" ({one_line(view.metric)} {value:.3g} by itself)"
            )
            say(f"        wrote{by_itself}: {fold(output)}")
    if item.detail:
        say(f"        {fold(item.detail)}")


def fold(text: str) -> str:
    """A text on one line, its end left out where it is long."""
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} … ({len(line) - LONGEST} more characters)"
