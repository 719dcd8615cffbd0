"""What the commands around the Hub do, without the parsing: the functions behind `hubinit.cli.sharing`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, is_offline_mode
from rich.progress import Progress

from hubinit.bench.costs import Stopwatch
from hubinit.bench.sweep import command_line
from hubinit.commands import console, errors, folding
from hubinit.errors import HubinitError

if TYPE_CHECKING:
    from hubinit.hub.manifest import Manifest
    from hubinit.matrix import MatrixRequest
    from hubinit.starting import PlannedStart, Report, StartRequest


def say(line: object) -> None:
    """Prints one line as it is: no markup, no wrapping."""
    console.print(str(line), markup=False, highlight=False, soft_wrap=True)


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
    from hubinit.starting import plan_start

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
    from hubinit.starting import finished, load_base, make_start, pool_of

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
    from hubinit import data

    return sum(len(data.encode(example, tokenizer, limit + 1)["input_ids"]) > limit for example in pool)


def deliver_init(planned: "PlannedStart", manifest: "Manifest", folder: Path, repo_id: str, *, private: bool) -> Any:
    """Publishes (or queues) a start point."""
    from hubinit.hub.delivery import deliver
    from hubinit.hub.publication import base_licence, of_adapter
    from hubinit.tasks import TASKS

    api = HfApi()
    publication = of_adapter(
        manifest.result,
        folder,
        "initialised",
        repo_id,
        licence=base_licence(api, planned.spec),
        datasets={name: task.dataset for name, task in TASKS.items()},
    )
    return deliver(api, publication, private=private)


def print_planned_init(planned: "PlannedStart", out: Path, repo_id: str | None, as_json: bool) -> None:
    """Prints what `init` would do."""
    from hubinit.starting import finished

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
    from hubinit.matrix import CATALOGUE, plan_matrix, publish_matrix
    from hubinit.starting import finished

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


def run_push(directory: Path, repo_id: str, *, create_pr: bool, public: bool, as_json: bool) -> None:
    """Publishes (or queues) an adapter folder."""
    from hubinit.hub.delivery import arrived, deliver
    from hubinit.hub.push import of_folder, push
    from hubinit.tasks import TASKS

    api = HfApi()
    datasets = {name: task.dataset for name, task in TASKS.items()}
    if is_offline_mode():
        if create_pr:
            raise HubinitError("A pull request cannot be queued; use --create-pr where the Hub can be reached.")
        done = deliver(api, of_folder(api, directory, repo_id, datasets), private=not public)
    else:
        done = arrived(api, push(api, directory, repo_id, create_pr=create_pr, public=public, datasets=datasets))
    if as_json:
        print(json.dumps(asdict(done), indent=1, default=str))
    else:
        say(done)


def run_pull(repo_id: str, *, out: Path | None, revision: str | None, as_json: bool) -> None:
    """Downloads and checks an adapter, and prints how to load it."""
    from hubinit.hub.cards import loading_snippet
    from hubinit.hub.publication import num_labels
    from hubinit.hub.pull import pull

    pulled = pull(HfApi(), repo_id, revision=revision, out=out)
    spec = pulled.manifest.result.spec
    labels = num_labels(pulled.folder / "adapter_model.safetensors") if spec.model.kind == "vision" else None
    snippet = loading_snippet(pulled.manifest, str(pulled.folder), num_labels=labels)
    if as_json:
        summary = {
            "repo": repo_id,
            "revision": pulled.revision,
            "folder": str(pulled.folder.resolve()),
            "snippet": snippet,
            "manifest": json.loads(pulled.manifest.model_dump_json()),
        }
        print(json.dumps(summary, indent=1))
        return
    say(f"{pulled.manifest.kind} adapter, every file checked: {pulled.folder.resolve()}")
    say(f"\nLoad it with transformers and peft:\n\n{snippet}")


def run_find(model: str | None, task: str | None, method: str | None, *, kind: str | None, as_json: bool) -> int:
    """Prints the adapters on the Hub that fit.

    Args:
        model: alias or Hub id of the base.
        task: task, suite (adapters whose data hold all of its tasks), or name of a user's own data.
        method: initialisation method.
        kind: `initialised` or `trained`.
        as_json: whether to print JSON.

    Returns:
        How many there are.

    Raises:
        HubinitError: an unknown method or model, or the Hub cannot be asked.
    """
    from hubinit import methods, models
    from hubinit.hub.cards import one_line
    from hubinit.hub.find import find
    from hubinit.tasks import SUITES

    if method is not None:
        methods.get(method)  # knows what the user may have meant
    tasks = SUITES.get(task, (task,)) if task is not None else ()
    base = models.resolve(model).id if model else None
    found = find(HfApi(), model=base, tasks=tasks, method=method, kind=kind)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return len(found)
    if not found:
        say("No adapter on the Hub fits; make one with `hubinit init`.")
        return 0
    for one in found:
        data = f", {', '.join(one.tasks)}" if one.tasks else ""
        lines = [f"{one.kind}: {one.method}, rank {one.rank or 'unknown'}, for {one.base_model}{data}"]
        for score in one.scores:
            error = f" ± {score.stderr:.3f}" if score.stderr is not None else ""
            count = f" (n = {score.n})" if score.n else ""
            lines.append(f"{score.task} {score.metric} {score.value:.3f}{error}{count}")
        say(f"{one.repo_id}{' (private)' if one.private else ''}")
        for line in lines:
            say(f"    {one_line(line)}")  # others wrote it: no line breaks, no control characters
    say("Load one with `hubinit pull REPO`, or as its card says.")
    return len(found)


def run_sync(*, as_json: bool) -> None:
    """Sends what waits in the outbox."""
    from hubinit.hub.delivery import arrived, outbox_folder
    from hubinit.hub.outbox import sync

    if is_offline_mode():
        raise HubinitError("sync needs the Hub; run it without --hub offline and HF_HUB_OFFLINE.")
    api = HfApi()
    sent = []
    for repo in sync(api, outbox_folder()):
        sent.append(arrived(api, repo))
        if not as_json:
            say(sent[-1])
    if as_json:
        print(json.dumps([asdict(done) for done in sent], indent=1, default=str))
    elif not sent:
        say("Nothing waits to be sent.")


def run_leaderboard(out: Path, *, push_to: str | None, public: bool, as_json: bool) -> None:
    """Prints the ranking of a folder of results, and publishes their rows when asked to."""
    from hubinit.bench.results import ResultStore
    from hubinit.hub.delivery import deliver_leaderboard
    from leaderboard import aggregate, render

    results = list(ResultStore(out).results())
    if not results:
        raise HubinitError(f"{out.resolve()} holds no results; give the folder that `hubinit bench --out` wrote.")
    runs = aggregate.table(results)
    ranking = aggregate.rank(runs)
    done = None
    if push_to is not None:
        repo_id = push_to if "/" in push_to else f"{push_to}/hubinit-leaderboard"
        done = deliver_leaderboard(HfApi(), results, repo_id, private=not public)
    if as_json:
        summary = {
            "ranking": json.loads(ranking.to_json(orient="records")),
            "failures": json.loads(aggregate.failures(runs).to_json(orient="records")),
            "published": asdict(done) if done else None,
        }
        print(json.dumps(summary, indent=1, default=str))
        return
    console.print(render.terminal(ranking, aggregate.failures(runs)))
    if done:
        say(done)


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
