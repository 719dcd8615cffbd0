"""What bench and train do and print."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from hubinit.cli.console import console, say, say_json, warn
from hubinit.cli.display import name
from hubinit.cli.options import read_duration
from hubinit.cli.planning import plan_aloud, print_plan
from hubinit.cli.rounds import Rounds, watched_sweep
from hubinit.cli.searching import print_decisions
from hubinit.errors import HubinitError
from hubinit.hub.access import check_write
from hubinit.hub.publication import require_hub_id
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.render import Terminal
from hubinit.leaderboard.sources import items_of
from hubinit.leaderboard.table import failures, table
from hubinit.records import ResultStore, RunResult
from hubinit.runs.budget import run_within
from hubinit.runs.disk import check_room
from hubinit.runs.effective import write_sweep
from hubinit.runs.executors.registry import make_executor
from hubinit.runs.executors.spec import HERE, Places
from hubinit.runs.full import WEIGHTS
from hubinit.runs.plan import PlannedRun, Request
from hubinit.runs.preflight import check_processes
from hubinit.runs.progress import recorded, same_command
from hubinit.runs.publishing import Publisher
from hubinit.runs.search import Searched, longest_search, run_search, template_request
from hubinit.runs.sweep import command_line
from hubinit.runs.tally import NO_SUCCESS
from hubinit.runs.tracking import check_trackers
from hubinit.runs.training import cut_note
from hubinit.runs.words import cells_of, duration, group_of
from hubinit.scoring.engines import vllm_version
from hubinit.scoring.evaluate import check_scorable
from hubinit.scoring.judge import LOCAL
from hubinit.specs import FULL, Engine


def run_bench(
    request: Request,
    out: Path,
    *,
    engine: Engine = "transformers",
    budget: float | None = None,
    places: Places = HERE,
    retries: int = 0,
    push_to: str | None,
    public: bool,
    dry_run: bool,
    force: bool,
    diagnostics: bool = False,
    report_to: Sequence[str] = (),
    as_json: bool,
) -> int:
    """Plans, runs, publishes and prints the ranking.

    Returns:
        How many models could not be had, plus the runs without a complete result and the publications that failed.
    """
    store = ResultStore(out)
    protocol = request.read_protocol()
    if budget is None and protocol.budget is not None:
        budget = read_duration(protocol.budget, "budget")
    if engine == "vllm" and request.quantize is not None:
        raise HubinitError("vLLM would answer with the unquantised base; leave out --engine or --quantize.")
    check_trackers(report_to)
    if engine == "vllm" and not dry_run:
        vllm_version()
    if push_to:
        check_write(HfApi(), push_to)
    searching = protocol.search is not None
    asked = template_request(request, protocol) if searching else request
    planned, lost = plan_aloud(asked, store, force=force, dry_run=dry_run, what="searches" if searching else "runs")
    check_processes([run.spec for run in planned], places.processes, fsdp=places.fsdp)
    for task in {evaluation.task for run in planned if run.state != "cached" for evaluation in run.evaluations}:
        check_scorable(task)
    if push_to:
        judges = [e.judge or "" for run in planned for e in run.evaluations]
        local = [judge.removeprefix(LOCAL) for judge in judges if judge.startswith(LOCAL)]
        for model in dict.fromkeys([*(run.spec.model.id for run in planned), *local]):
            require_hub_id(model)
    if dry_run:
        print_plan(
            longest_search(planned, protocol, store) if searching else planned,
            store,
            as_json,
            at_most=searching,
            budget=budget,
        )
        return len(lost)
    check_room((run.spec for run in planned if run.state == "run"), out)
    write_sweep(store, request, planned, command_line(), budget_seconds=budget, engine=engine)
    groups = {run.spec.key: run.group for run in planned}
    publisher = Publisher(store, push_to, groups, private=not public) if push_to else None
    decided = Searched([], [], [])
    left_out: list[PlannedRun] = []
    with recorded(out) as recorder:
        rounds = Rounds(
            store,
            make_executor(places),
            recorder,
            force=force,
            retries=retries,
            on_stop=say_stopping,
            on_scored=publisher,
            groups=groups,
            eval_batch_size=protocol.eval_batch_size,
            engine=engine,
            diagnostics=diagnostics,
            report_to=report_to,
        )
        with closing(rounds):
            if searching:
                decided = run_search(
                    planned, protocol, store, rounds, budget=budget, force=force, shifts=request.shifts or {}
                )
                results = decided.results
            elif budget is not None:
                results, left_out = run_within(budget, planned, store, rounds)
            else:
                results = rounds(planned)
    if publisher:
        publisher.finish(results, cached=rounds.cached)
    published, unpublished = (publisher.published, publisher.failures) if publisher else ([], [])
    warn_cut(results)
    if as_json:
        print_json(results, out, published, [*lost, *unpublished], decided, left_out)
    else:
        print_ranking(results, out, published, decided.default_rate)
        print_decisions(decided, results)
    if left_out:
        warn(f"Left out, for they did not fit into the budget of {duration(budget or 0)}: {len(left_out)} runs:")
        for run in left_out:
            warn(f"  {name(run)}")
    for line in [*(publisher.notes if publisher else []), *unpublished]:
        warn(line)
    say_failures([result for result in results if result.status != "ok"], groups, out)
    return len(lost) + sum(result.status != "ok" for result in results) + decided.left_out + len(unpublished)


def say_stopping() -> None:
    """What Ctrl-C does, while it is being done."""
    warn("Stopping: trainings finish their step and keep a checkpoint. Ctrl-C again ends at once.")


def print_json(
    results: Sequence[RunResult],
    out: Path,
    published: Sequence[str],
    problems: Sequence[str],
    decided: Searched,
    left_out: Sequence[PlannedRun],
) -> None:
    """Prints everything that a script may want of a benchmark."""
    runs = table(results)
    ranking = rank(runs, items_of(runs, results, out, warn), default_lr=decided.default_rate)
    summary = {
        "results": [json.loads(result.model_dump_json()) for result in results],
        "ranking": json.loads(ranking.to_json(orient="records")),
        "search": [json.loads(one.model_dump_json()) for one in decided.decisions],
        "left_out": [run.spec.key for run in left_out],
        "published": list(published),
        "errors": list(problems),
    }
    say_json(summary)


def print_ranking(
    results: Sequence[RunResult], out: Path, published: Sequence[str], default_rate: float | None
) -> None:
    """Prints the ranking, where everything lies, and what to do next."""
    runs = table(results)
    ranking = rank(runs, items_of(runs, results, out, warn), default_lr=default_rate)
    console.print(Terminal(ranking, failures(runs)))
    say(f"Results: {out.resolve()}")
    for line in published:
        say(f"Published: {line}")
    if not published and all(result.status != "failed" for result in results):
        say(f"Next: hubinit leaderboard --out {out} --push-to NAMESPACE")
    say("More --seeds, --lrs, --methods or --tasks: only what is new is done.")


def run_train(
    request: Request,
    out: Path,
    *,
    places: Places = HERE,
    retries: int = 0,
    dry_run: bool,
    force: bool,
    diagnostics: bool = False,
    report_to: Sequence[str] = (),
    as_json: bool,
) -> int:
    """Trains the runs of a request without scoring them.

    Returns:
        How many of them have no trained adapter.
    """
    store = ResultStore(out)
    if request.read_protocol().search is not None and request.learning_rates is None:
        raise HubinitError(
            f"Protocol '{request.protocol}' searches the learning rate, which bench does; train wants --lr."
        )
    check_trackers(report_to)
    planned, _ = plan_aloud(request, store, force=force, dry_run=dry_run)
    check_processes([run.spec for run in planned], places.processes, fsdp=places.fsdp)
    planned = [replace(run, evaluations=()) for run in planned]
    if dry_run:
        print_plan(planned, store, as_json)
        return 0
    check_room((run.spec for run in planned if run.state == "run"), out)
    with recorded(out) as recorder:
        results = watched_sweep(
            planned,
            store,
            recorder,
            force=force,
            executor=make_executor(places),
            retries=retries,
            on_stop=say_stopping,
            diagnostics=diagnostics,
            report_to=report_to,
        )
    warn_cut(results)
    if as_json:
        say_json([json.loads(result.model_dump_json()) for result in results])
    for result in results:
        if result.status in {"ok", "partial"} and not as_json:
            folder = store.folder(result.key).resolve()
            seconds = sum(cost.seconds for cost in result.costs.values())
            if result.spec.method.name == FULL:
                say(f"Trained in {duration(seconds)}: {folder / WEIGHTS}")
                continue
            say(f"Trained in {duration(seconds)}: {folder / 'adapter'}")
            say(f"Its starting point: {folder / 'init'}")
            names = ",".join(result.spec.data.tasks if result.spec.data else ())
            say(f"Next: hubinit eval {shlex.quote(str(folder / 'adapter'))} --tasks {names}")
    wrong = [result for result in results if result.status in NO_SUCCESS]
    say_failures(wrong, {run.spec.key: run.group for run in planned}, out)
    return len(wrong)


def say_failures(results: Sequence[RunResult], groups: Mapping[str, str], out: Path) -> None:
    """Says last which runs have no complete result and why, where to read more, and what tries them again."""
    if not results:
        return
    warn(f"Runs without a complete result: {len(results)}")
    for result in results:
        cells = cells_of(result.spec, groups.get(result.key, group_of(result.spec)))
        words = " ".join(cell for cell in cells if cell != "-")
        warn(f"  {result.key[:8]} {words}: {result.status}: {result.reason}")
    warn(f"Read more: hubinit logs {results[0].key[:8]} --out {shlex.quote(str(out))}")
    if any(result.status != "diverged" for result in results):
        warn(f"Try what failed again, and only that: {same_command()}")
    if any(result.status == "diverged" for result in results):
        warn("A run that diverged would diverge again; give it a lower learning rate.")


def warn_cut(results: Sequence[RunResult]) -> None:
    """Says once per model, data set and length how many training examples were too long; seeds may differ, the most counts."""
    cut = sorted((result for result in results if result.cut_examples), key=lambda result: -(result.cut_examples or 0))
    said: dict[tuple[Any, ...], str] = {}
    for result in cut:
        spec = result.spec
        assert spec.data is not None and spec.recipe is not None
        said.setdefault(
            (spec.model.id, spec.data.tasks, spec.recipe.max_length), cut_note(spec, result.cut_examples or 0)
        )
    for line in said.values():
        warn(line)
