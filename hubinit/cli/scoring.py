"""What eval does and prints."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from hubinit import tasks
from hubinit.cli.console import console, errors, say, say_json, warn
from hubinit.errors import HubinitError
from hubinit.paths import write_atomically
from hubinit.records import ITEMS, Score, items_name, write_items
from hubinit.runs.costs import provenance
from hubinit.runs.sweep import command_line
from hubinit.scoring.engines import with_vllm
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.outputs import read_outputs, score_outputs
from hubinit.scoring.spec import Average, Scored, average
from hubinit.scoring.target import load_target
from hubinit.specs import Dtype, Engine, EvalSpec
from hubinit.tasks import named

SCORES = "scores.json"  # of `eval --out`


def run_eval(
    target: str | None,
    groups: Sequence[str],
    wanted: EvalSpec,
    *,
    outputs: Path | None,
    batch_size: int,
    dtype: Dtype,
    engine: Engine = "transformers",
    out: Path | None,
    as_json: bool,
) -> int:
    """Scores a base model, an adapter or recorded outputs in this process and prints the scores.

    Args:
        target: model or adapter; None: `outputs` are scored.
        groups: tasks and suites.
        wanted: how each of them is evaluated.
        outputs: file of recorded answers to one task.
        batch_size: sequences per forward pass.
        dtype: of the base's weights.
        engine: what answers the questions of free-text tasks.
        out: where scores and answers are kept; None: they are not.
        as_json: print JSON.

    Returns:
        How many tasks could not be scored.
    """
    members = list(dict.fromkeys(name for group in groups for name in tasks.members(group)))
    if out and (out / SCORES).exists():
        raise HubinitError(f"{out} holds scores already; choose another folder for --out.")
    if out:
        out.mkdir(parents=True, exist_ok=True)  # what cannot be written is said before the work
    if target is None:
        assert outputs is not None
        if wanted.shots or wanted.samples:
            raise HubinitError("--shots and --samples say how a model is asked; recorded outputs are answered already.")
        if len(members) != 1:
            raise HubinitError(f"Recorded outputs answer one task, not {', '.join(members)}.")
        done = {members[0]: score_recorded(members[0], outputs, wanted)}
        failures: list[str] = []
    else:
        done, failures = score_target(target, members, wanted, batch_size, dtype, engine)
    scores = keep(done, out) if out else [score for scored in done.values() for score in scored.scores]
    suites = [group for group in groups if group in tasks.SUITES]
    averages = [one for suite in suites if (one := average(suite, tasks.members(suite), scores))]
    if as_json:
        say_json([json.loads(score.model_dump_json()) for score in scores] + [average_json(one) for one in averages])
    elif scores:
        console.print(score_table(scores, averages))
        for judge, version in dict.fromkeys(
            (score.eval.judge, score.judge_version) for score in scores if score.eval.judge
        ):
            say(f"Rated by {judge}" + (f" ({version})" if version else ""))
    for suite in set(suites) - {one.suite for one in averages}:
        warn(f"No average of {suite}: not all of its tasks were scored.")
    if out:
        say(f"Scores and every answer: {out.resolve()}") if not as_json else None
    for failure in (*failures, *(f"{name}: {note}" for name, scored in done.items() for note in scored.notes)):
        warn(failure)
    return len(failures)


def score_recorded(task: str, outputs: Path, wanted: EvalSpec) -> Scored:
    """Scores a file of recorded answers."""
    lines = read_outputs(outputs)
    own = all("document" in line for line in lines)  # then the data set is not needed
    revision = None if own else tasks.pin(task)
    return score_outputs(task, lines, revision=revision, limit=wanted.limit, judge=wanted.judge)


def score_target(
    target: str,
    members: Sequence[str],
    wanted: EvalSpec,
    batch_size: int,
    dtype: Dtype,
    engine: Engine = "transformers",
) -> tuple[dict[str, Scored], list[str]]:
    """Scores a model on tasks; one that fails costs only its own scores.

    Returns:
        The scores by task, and a reason for each task that failed.
    """
    model, processor = load_target(target, members, dtype, engine)
    done: dict[str, Scored] = {}
    failures: list[str] = []
    with Progress(console=errors, disable=not errors.is_terminal) as progress:
        for name in members:
            bar = progress.add_task(name)

            def report(finished: int, total: int, bar: TaskID = bar) -> None:
                progress.update(bar, completed=finished, total=total)

            try:
                judge = wanted.judge if tasks.get(name).judged else None
                known = {"task": name, "revision": tasks.pin(name), "shots": tasks.shots(name, wanted), "judge": judge}
                evaluation = wanted.model_copy(update=known)
                warn_unpinned([evaluation])
                scored = evaluate_one(model, processor, evaluation, batch_size=batch_size, on_progress=report)
                done[name] = written_by_vllm(scored) if engine == "vllm" else scored
            except HubinitError as error:
                if len(members) == 1:
                    raise
                failures.append(f"{name}: {error}")
    return done, failures


def warn_unpinned(evaluations: Iterable[EvalSpec]) -> None:
    """Says which tasks of lm-eval have data that no commit can be named for."""
    names = {one.task for one in evaluations if one.revision is None and named.is_named(one.task)}
    for name in sorted(names):
        warn(f"{name}: its data are not one data set on the Hub, so the record names no revision of them.")


def written_by_vllm(scored: Scored) -> Scored:
    """Scores that say so."""
    made = with_vllm(provenance(command_line()))
    return Scored([score.model_copy(update={"provenance": made}) for score in scored.scores], scored.items)


def keep(done: dict[str, Scored], out: Path) -> list[Score]:
    """Writes `scores.json` and the item records of every task into a folder; returns the scores, which name the records."""
    scores: list[Score] = []
    for scored in done.values():
        digest = write_items(out / ITEMS / items_name(scored.scores[0].eval), scored.items)
        made = provenance(command_line())
        scores += [
            score.model_copy(update={"items": digest, "provenance": score.provenance or made})
            for score in scored.scores
        ]
    text = json.dumps([json.loads(score.model_dump_json()) for score in scores], indent=1) + "\n"
    write_atomically(out / SCORES, text)
    return scores


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
