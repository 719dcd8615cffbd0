"""What eval does and prints."""

import json
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from hubinit import tasks
from hubinit.cli.console import console, errors, say, say_json, warn
from hubinit.cli.kept import Kept, open_kept
from hubinit.errors import HubinitError, first_line
from hubinit.paths import sha256_of
from hubinit.records import Score
from hubinit.runs.costs import provenance
from hubinit.runs.sweep import command_line
from hubinit.scoring.contamination import mark_seen
from hubinit.scoring.engines import with_vllm
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.outputs import documents_of, read_outputs, score_outputs
from hubinit.scoring.spec import Average, Scored, average
from hubinit.scoring.target import Load, Target, find_target, load_found, share_base, trained_on
from hubinit.specs import DataSpec, Dtype, Engine, EvalSpec
from hubinit.tasks import named
from hubinit.tasks.spec import Document


@dataclass(frozen=True)
class Outcome:
    """What came of the tasks: scores; why a task has none; what a task was scored without."""

    scores: list[Score] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, kept: Kept, evaluation: EvalSpec, scored: Scored) -> None:
        """Takes in what was scored; it is stored at once, where the user wants it kept."""
        self.scores.extend(kept.add(evaluation, scored))
        if scored.notes:
            self.notes[evaluation.task] = " ".join(scored.notes)

    def fail(self, kept: Kept, task: str, reason: str) -> None:
        """Takes in that a task cannot be scored."""
        self.failures[task] = reason
        kept.note(task, reason)


def run_eval(
    targets: Sequence[str],
    groups: Sequence[str],
    wanted: EvalSpec,
    *,
    outputs: Path | None,
    batch_size: int,
    dtype: Dtype,
    engine: Engine = "transformers",
    training: Sequence[str] = (),
    out: Path | None,
    as_json: bool,
) -> int:
    """Scores models, adapters or recorded outputs in this process and prints the scores.

    Args:
        targets: models and adapters; none: `outputs` are scored.
        groups: tasks and suites.
        wanted: how each of them is evaluated.
        outputs: file of recorded answers to one task.
        batch_size: sequences per forward pass.
        dtype: of the base's weights.
        engine: what answers the questions of free-text tasks.
        training: tasks and suites that the model was trained on. Default: as the adapter says.
        out: where scores and answers are kept, task by task; what is there already is not done again. None: they are not.
            Several targets have a folder each in it.
        as_json: print JSON.

    Returns:
        How many tasks could not be scored.
    """
    members = list(dict.fromkeys(name for group in groups for name in tasks.members(group)))
    data = training_data(training) if training else None
    several = len(targets) > 1
    rows: list[dict[str, Any]] = []
    failed = 0
    if not targets:
        assert outputs is not None
        if wanted.shots or wanted.samples:
            raise HubinitError("--shots and --samples say how a model is asked; recorded outputs are answered already.")
        if len(members) != 1:
            raise HubinitError(f"Recorded outputs answer one task, not {', '.join(members)}.")
        outcome = score_recorded(members[0], outputs, wanted, data, out)
        rows, failed = report_outcome(outcome, groups, out, as_json), len(outcome.failures)
    load = share_base() if several else load_found
    for target in targets:
        folder = out / folder_name(target) if out and several else out
        if several and not as_json:
            say(target)
        try:
            found = find_target(target, members, dtype, engine)
            outcome = score_target(found, members, wanted, batch_size, data, folder, load)
        except HubinitError as error:
            if not several:
                raise
            outcome = Outcome(failures={target: str(error)})
        found_rows = report_outcome(outcome, groups, folder, as_json)
        rows += [{"target": target, **row} for row in found_rows] if several else found_rows
        failed += len(outcome.failures)
    if as_json:
        say_json(rows)
    return failed


def report_outcome(outcome: Outcome, groups: Sequence[str], out: Path | None, as_json: bool) -> list[dict[str, Any]]:
    """Prints what came of one target's tasks, but with `as_json` only what went wrong; returns it as JSON."""
    suites = [group for group in groups if group in tasks.SUITES]
    averages = [one for suite in suites if (one := average(suite, tasks.members(suite), outcome.scores))]
    if outcome.scores and not as_json:
        print_scores(outcome.scores, averages)
    for suite in set(suites) - {one.suite for one in averages}:
        warn(f"No average of {suite}: not all of its tasks were scored.")
    if out and not as_json:
        say(f"Scores and every answer: {out.resolve()}")
    for name, reason in (*outcome.failures.items(), *outcome.notes.items()):
        warn(f"{name}: {reason}")
    if out and outcome.failures:
        warn("What was scored is kept; the same command goes on with the rest.")
    return outcome_json(outcome) + [average_json(one) for one in averages]


def folder_name(target: str) -> str:
    """A target's folder in that of several."""
    return re.sub(r"[^\w.-]+", "-", target).strip("-.")[-100:] or "model"


def score_recorded(task: str, outputs: Path, wanted: EvalSpec, data: DataSpec | None, out: Path | None) -> Outcome:
    """Scores a file of recorded answers."""
    lines = read_outputs(outputs)
    own = all("document" in line for line in lines)  # then the data set is not needed
    revision = None if own else tasks.pin(task)
    kept = open_kept(out, {"outputs": sha256_of(outputs)})
    scored = score_outputs(task, lines, revision=revision, limit=wanted.limit, judge=wanted.judge)
    evaluation = scored.scores[0].eval
    marked = mark(scored, evaluation, data, documents_of(lines, task) if data and own else None)
    outcome = Outcome()
    outcome.add(kept, evaluation, marked)
    return outcome


def score_target(
    found: Target,
    members: Sequence[str],
    wanted: EvalSpec,
    batch_size: int,
    data: DataSpec | None = None,
    out: Path | None = None,
    load: Load = load_found,
) -> Outcome:
    """Scores a model on tasks; one that fails costs only its own scores.

    Args:
        found: the model.
        members: the tasks.
        wanted: how each of them is evaluated.
        batch_size: sequences per forward pass.
        data: that the model was trained on. Default: as its adapter says.
        out: where scores and answers are kept.
        load: what loads it.
    """
    kept = open_kept(out, found.identity() if out else {})
    outcome = Outcome()
    missing: list[EvalSpec] = []
    for name in members:
        try:
            evaluation = evaluation_of(name, wanted)
        except HubinitError as error:
            if len(members) == 1:
                raise
            outcome.fail(kept, name, str(error))
            continue
        if there := kept.done(evaluation):
            warn(f"{name}: scored already, its scores are in {out}")
            outcome.scores.extend(there)
        else:
            missing.append(evaluation)
    if not missing:
        return outcome
    warn_unpinned(missing)
    data = data or (trained_on(found.name) if found.adapter else None)
    model, processor = load(found, [evaluation.task for evaluation in missing])
    with Progress(console=errors, disable=not errors.is_terminal) as progress:
        for evaluation in missing:
            bar = progress.add_task(evaluation.task)

            def report(finished: int, total: int, bar: TaskID = bar) -> None:
                progress.update(bar, completed=finished, total=total)

            try:
                scored = evaluate_one(model, processor, evaluation, batch_size=batch_size, on_progress=report)
                scored = written_by_vllm(scored) if found.engine == "vllm" else scored
                outcome.add(kept, evaluation, mark(scored, evaluation, data))
            except HubinitError as error:
                if len(members) == 1:
                    raise
                outcome.fail(kept, evaluation.task, str(error))
            except torch.OutOfMemoryError as error:
                reason = f"out of memory with one example at a time ({first_line(error)})"
                outcome.fail(kept, evaluation.task, reason)
            except Exception as error:  # whatever lm-eval or a data set does, the other tasks go on
                if len(members) == 1:
                    raise
                traceback.print_exc()
                outcome.fail(kept, evaluation.task, first_line(error))
    return outcome


def evaluation_of(name: str, wanted: EvalSpec) -> EvalSpec:
    """How one task is evaluated, at the revision that its data have now."""
    known = {"task": name, "revision": tasks.pin(name), "shots": tasks.shots(name, wanted)}
    return wanted.model_copy(update={**known, "judge": wanted.judge if tasks.get(name).judged else None})


def training_data(groups: Sequence[str]) -> DataSpec:
    """The training splits of tasks and suites, as they are now."""
    names = list(dict.fromkeys(name for group in groups for name in tasks.members(group)))
    tasks.check_trainable(names)
    return DataSpec(tasks=tuple(names), revisions=tuple(tasks.pin(name) for name in names))


def mark(
    scored: Scored, evaluation: EvalSpec, data: DataSpec | None, documents: dict[str, Document] | None = None
) -> Scored:
    """Marks what is in the training data; where they cannot be had, the scores stay, with a note."""
    if data is None:
        return scored
    try:
        return mark_seen(scored, evaluation, data, documents)
    except HubinitError as error:
        return replace(scored, notes=(*scored.notes, f"It was not searched for training examples: {error}"))


def warn_unpinned(evaluations: Iterable[EvalSpec]) -> None:
    """Says which tasks of lm-eval have data that no commit can be named for."""
    names = {one.task for one in evaluations if one.revision is None and named.is_named(one.task)}
    for name in sorted(names):
        warn(f"{name}: its data are not one data set on the Hub, so the record names no revision of them.")


def written_by_vllm(scored: Scored) -> Scored:
    """Scores that say so."""
    made = with_vllm(provenance(command_line()))
    return replace(scored, scores=[score.model_copy(update={"provenance": made}) for score in scored.scores])


def outcome_json(outcome: Outcome) -> list[dict[str, Any]]:
    """The scores, then each task that has none (`failed`), or lacks some (`partial`), with the reason."""
    rows = [json.loads(score.model_dump_json()) for score in outcome.scores]
    for status, reasons in (("failed", outcome.failures), ("partial", outcome.notes)):
        rows += [{"task": name, "status": status, "reason": reason} for name, reason in reasons.items()]
    return rows


def average_json(one: Average) -> dict[str, object]:
    """The average of a suite in the form of a score; `n` counts its tasks."""
    return {
        "task": one.suite,
        "metric": "mean",
        "value": one.value,
        "stderr": one.stderr,
        "n": len(one.tasks),
        "members": one.tasks,
    }


def print_scores(scores: Sequence[Score], averages: Sequence[Average]) -> None:
    """The table of scores, then who rated them and how many of the questions were trained on."""
    console.print(score_table(scores, averages))
    for judge, version in dict.fromkeys(
        (score.eval.judge, score.judge_version) for score in scores if score.eval.judge
    ):
        say(f"Rated by {judge}" + (f" ({version})" if version else ""))
    for score in scores:
        if score.primary and score.contaminated is not None:
            say(f"{score.task}: {score.contaminated} of {score.n} questions are in the training data")


def score_table(scores: Sequence[Score], averages: Sequence[Average] = ()) -> Table:
    """The scores of one model, then the averages of its suites."""
    table = Table("task", "metric", "value", "± stderr", "n", "invalid")
    for score in scores:
        cells = (
            f"{score.value:.4f}",
            "-" if score.stderr is None else f"{score.stderr:.4f}",
            str(score.n),
            "-" if score.invalid_rate is None else f"{score.invalid_rate:.1%}",
        )
        table.add_row(score.task, escape(score.metric), *cells, style="bold" if score.primary else "")
    for one in averages:
        error = "-" if one.stderr is None else f"{one.stderr:.4f}"
        table.add_row(one.suite, "mean", f"{one.value:.4f}", error, f"{len(one.tasks)} tasks", "-", style="bold")
    return table
