"""What `hubinit init` and `publish-inits` do, without the parsing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from rich.progress import Progress

from hubinit.cli.console import console, errors, folding, say
from hubinit.runs.costs import Stopwatch
from hubinit.runs.sweep import command_line

if TYPE_CHECKING:
    from hubinit.inits.make import Report
    from hubinit.inits.matrix import MatrixRequest
    from hubinit.inits.plan import PlannedStart, StartRequest
    from hubinit.records import Manifest


@contextmanager
def progress() -> Iterator["Report"]:
    """Shows what goes on: a bar on a terminal, else a line per stage; always on standard error."""
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)
        last = ""

        def report(what: str, done: int, total: int) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=total or None)
            if what != last and not errors.is_terminal:
                errors.print(what, markup=False, highlight=False)
            last = what

        yield report


def run_init(
    request: "StartRequest", *, out: Path | None, push: str | None, public: bool, dry_run: bool, as_json: bool
) -> None:
    """Makes a start point, publishes it when asked to, and prints how to load it."""
    from hubinit.hub.publication import repo_name
    from hubinit.inits.plan import plan_start

    planned = plan_start(request)
    suite = planned.group if planned.spec.data and len(planned.spec.data.tasks) > 1 else None
    repo_id = push if push is None or "/" in push else repo_name(planned.spec, "initialised", push, suite)
    if out is None:
        name = repo_name(planned.spec, "initialised", "me", suite).removeprefix("me/")
        out = planned.default_folder if push else Path(name)
    if dry_run:
        print_planned_init(planned, out, repo_id, as_json)
        return
    manifest, cut = start_in(planned, out, request)
    done = deliver_init(planned, manifest, out, repo_id, private=not public) if repo_id else None
    from hubinit.hub.cards import loading_snippet
    from hubinit.hub.publication import num_labels

    labels = num_labels(out / "adapter_model.safetensors") if planned.spec.model.kind == "vision" else None
    place = str(out) if done is None or done.url is None else done.repo_id
    snippet = loading_snippet(manifest, place, num_labels=labels)
    if as_json:
        summary = {
            "folder": str(out.resolve()),
            "repo": repo_id,
            "url": done.url if done else None,
            "queued": str(done.queued) if done and done.queued else None,
            "snippet": snippet,
            "truncated_examples": cut,
            "result": json.loads(manifest.result.model_dump_json()),
        }
        print(json.dumps(summary, indent=1))
        return
    size = (manifest.result.adapter_bytes or 0) / 1e6
    say(f"Start point: {out.resolve()} ({size:.1f} MB)")
    if done:
        say(done)
    say(f"\nLoad it with transformers and peft:\n\n{snippet}")


def start_in(planned: "PlannedStart", out: Path, request: "StartRequest") -> tuple["Manifest", int]:
    """The start point in the folder `out`, made unless it is there.

    Returns:
        Its manifest, and how many of the user's examples were longer than the calibration's limit (0 when it was there).
    """
    from hubinit.calibration.shared import need_of
    from hubinit.inits.make import finished, load_base, make_start, pool_of

    spec = planned.spec
    if (manifest := finished(out, spec)) is not None:
        errors.print("It was made before; nothing was computed.", markup=False)
        return manifest, 0
    command = command_line()
    if request.data and Path(request.data).is_file():
        command = command.replace(request.data, Path(request.data).name)  # where it lies is nobody's business
    needs = [need_of(spec.method, spec.calibration)] if spec.calibration else []
    watch = Stopwatch()
    with progress() as report:
        loaded = load_base(spec, watch, report)
        pool = pool_of(planned, loaded, spec.calibration.samples if spec.calibration else 0)
        cut = 0
        if planned.own is not None and spec.calibration is not None:
            cut = too_long(pool, loaded.processor, spec.calibration.max_length)
        manifest = make_start(spec, loaded, pool, needs, out, watch=watch, command=command, report=report)
    if cut:
        limit = spec.calibration.max_length if spec.calibration else 0
        errors.print(
            f"{cut} of {len(pool)} examples are longer than {limit} tokens and lost a part; raise --max-length.",
            markup=False,
        )
    return manifest, cut


def too_long(pool: Any, tokenizer: Any, limit: int) -> int:
    """How many examples have more tokens than the limit."""
    from hubinit.data.encode import encode

    return sum(len(encode(example, tokenizer, limit + 1)["input_ids"]) > limit for example in pool)


def deliver_init(planned: "PlannedStart", manifest: "Manifest", folder: Path, repo_id: str, *, private: bool) -> Any:
    """Publishes (or queues) a start point."""
    from hubinit.hub.outbox import deliver
    from hubinit.hub.publication import base_licence, of_adapter

    api = HfApi()
    publication = of_adapter(
        manifest.result,
        folder,
        "initialised",
        repo_id,
        licence=base_licence(api, planned.spec),
    )
    return deliver(api, publication, private=private)


def print_planned_init(planned: "PlannedStart", out: Path, repo_id: str | None, as_json: bool) -> None:
    """Prints what `init` would do."""
    from hubinit.inits.make import finished

    there = finished(out, planned.spec) is not None
    rows = len(planned.own.rows) if planned.own else None
    if as_json:
        plan = {
            "spec": json.loads(planned.spec.model_dump_json()),
            "folder": str(out.resolve()),
            "repo": repo_id,
            "made": there,
            "examples": rows,
            "columns": planned.own.form if planned.own else None,
        }
        print(json.dumps(plan, indent=1))
        return
    spec = planned.spec
    say(f"{spec.method.name} at rank {spec.rank} for {spec.model.id} at {spec.model.revision}")
    if planned.own is not None:
        say(f"data: {planned.own.name}, {rows} examples in the form '{planned.own.form}', all of them fit")
    if spec.calibration is not None:
        say(f"calibration: {spec.calibration.samples} examples of at most {spec.calibration.max_length} tokens")
    say(f"folder: {out.resolve()}" + (" (made already)" if there else ""))
    if repo_id:
        say(f"repository: {repo_id}")


def run_publish_inits(request: "MatrixRequest", namespace: str, *, public: bool, dry_run: bool, as_json: bool) -> int:
    """Makes and publishes a matrix of start points.

    Returns:
        How many things failed.
    """
    from hubinit.inits.make import finished
    from hubinit.inits.matrix import CATALOGUE, plan_matrix, publish_matrix

    planned = plan_matrix(request)
    if dry_run:
        rows = [
            {
                "model": start.spec.model.id,
                "task": start.group,
                "method": start.spec.method.name,
                "rank": start.spec.rank,
                "key": start.spec.key,
                "state": "to do" if finished(start.default_folder, start.spec) is None else "made",
            }
            for start in planned
        ]
        print_rows(rows, as_json)
        return 0

    def note(line: str) -> None:
        errors.print(line, markup=False, highlight=False, soft_wrap=True) if as_json else say(line)

    with progress() as report:
        outcome = publish_matrix(
            planned, namespace, private=not public, command=command_line(), report=report, say=note
        )
    if as_json:
        print(json.dumps({**asdict(outcome), "catalogue": f"{namespace}/{CATALOGUE}"}, indent=1))
    elif outcome.failures:
        errors.print(
            f"{len(outcome.failures)} failed, see above; {len(outcome.published)} are published.", markup=False
        )
    return len(outcome.failures)


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Prints dictionaries with the same keys as a table or JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = folding(*rows[0])
    for row in rows:
        table.add_row(*(plain("-" if value is None else value) for value in row.values()))
    console.print(table)


def plain(value: object) -> Any:
    """A cell with nothing in it read as markup."""
    from rich.text import Text

    return Text(str(value))
