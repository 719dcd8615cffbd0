"""What `hubinit init` and `publish-inits` do and print."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import HfApi
from rich.progress import Progress
from rich.text import Text

from hubinit.adapters.calibrating import need_of
from hubinit.cli.console import console, errors, folding, say, say_json, warn
from hubinit.data.encode import encode_all
from hubinit.hub.access import check_write
from hubinit.hub.cards import loading_snippet
from hubinit.hub.outbox import Delivered
from hubinit.hub.publication import num_labels, repo_name, require_hub_id
from hubinit.inits.make import Tell, load_base, make_start, pool_of, read_start
from hubinit.inits.matrix import CATALOGUE, MatrixRequest, Publishing, plan_matrix, publish_matrix
from hubinit.inits.plan import PlannedStart, StartRequest, plan_start
from hubinit.inits.publish import publish_start, repo_of
from hubinit.records import Manifest
from hubinit.runs.costs import Stopwatch
from hubinit.runs.sweep import command_line
from hubinit.training.advice import SUGGESTED, how_sure
from hubinit.training.curvature import EXAMPLES


@contextmanager
def progress() -> Iterator[Tell]:
    """Shows what goes on: a bar on a terminal, else a line per stage; always on standard error."""
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)
        last = ""

        def report(what: str, done: int, total: int) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=total or None)
            if what != last and not errors.is_terminal:
                warn(what)
            last = what

        yield report


@dataclass(frozen=True)
class Made:
    """A start point that lies in a folder, and where it went.

    `cut` is how many of the user's examples were longer than the calibration's limit (0 when it was there already).
    """

    manifest: Manifest
    folder: Path
    cut: int
    delivered: Delivered | None = None

    @property
    def snippet(self) -> str:
        """The lines that load it, from the Hub where it is there."""
        place = self.folder if self.delivered is None or self.delivered.url is None else self.delivered.repo_id
        labels = num_labels(self.manifest.result.spec.model, self.folder)
        return loading_snippet(self.manifest, str(place), num_labels=labels)


def run_init(
    request: StartRequest,
    *,
    out: Path | None,
    push: str | None,
    public: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Makes a start point, publishes it when asked to, and says what to do next.

    A repo that the user names is not given another start point without `force`; one that is named after its content is.
    """
    planned = plan_start(request)
    repo_id = repo_of(planned, push) if push else None
    api = HfApi()
    if push:
        require_hub_id(planned.spec.model.id)
        check_write(api, push)
    if out is None:
        name = repo_name(planned.spec, "initialised", "me", planned.suite).removeprefix("me/")
        out = planned.default_folder if push else Path(name)
    if dry_run:
        print_planned_init(planned, out, repo_id, as_json)
        return
    manifest, cut = start_in(planned, out, request)
    delivered = None
    if repo_id:
        replace = force or repo_id != push
        delivered = publish_start(api, planned, manifest, out, repo_id, private=not public, replace=replace)
    print_made(Made(manifest, out, cut, delivered), repo_id, as_json)


def start_in(planned: PlannedStart, out: Path, request: StartRequest) -> tuple[Manifest, int]:
    """The start point in the folder `out`, made unless it is there.

    Returns:
        Its manifest, and how many of the user's examples were longer than the calibration's limit (0 when it was there).
    """
    spec = planned.spec
    if (manifest := read_start(out, spec)) is not None:
        warn("It was made before; nothing was computed.")
        if request.suggest_rate and SUGGESTED not in manifest.result.initialisation:
            warn(f"It has no suggested learning rate: for one, delete {out} or choose another --out.")
        return manifest, 0
    command = command_line()
    if request.data and Path(request.data).is_file():
        command = command.replace(request.data, Path(request.data).name)  # where it lies is nobody's business
    needs = [need_of(spec.method, spec.calibration)] if spec.calibration else []
    watch = Stopwatch()
    with progress() as report:
        loaded = load_base(spec, watch, report)
        pool = pool_of(planned, loaded, spec.calibration.samples if spec.calibration else 0)
        limit = spec.calibration.max_length if planned.own and spec.calibration else None
        cut = encode_all(pool, loaded.processor, limit)[1] if limit else 0  # type: ignore[arg-type]
        manifest = make_start(
            planned, loaded, pool, needs, out, watch=watch, command=command, report=report, on_note=warn
        )
    if cut:
        warn(f"{cut} of {len(pool)} examples are longer than {limit} tokens and lost a part; raise --max-length.")
    return manifest, cut


def print_made(made: Made, repo_id: str | None, as_json: bool) -> None:
    """Prints where a start point is, how to load it, and what to do next."""
    result, done = made.manifest.result, made.delivered
    folder = made.folder.resolve()
    rate = result.initialisation.get(SUGGESTED)
    if as_json:
        summary = {
            "folder": str(folder),
            "repo": repo_id,
            "url": done.url if done else None,
            "queued": str(done.queued) if done and done.queued else None,
            "snippet": made.snippet,
            "truncated_examples": made.cut,
            "suggested_learning_rate": rate,
            "how_sure": how_sure(result.spec.method.name) if rate is not None else None,
            "result": json.loads(result.model_dump_json()),
        }
        say_json(summary)
        return
    say(f"Start point: {folder} ({(result.adapter_bytes or 0) / 1e6:.1f} MB), made in {result.spec.model.dtype}")
    if rate is not None:
        say(f"Learning rate for AdamW that the curvature suggests: {rate:.1e}. {how_sure(result.spec.method.name)}")
    if done:
        say(done)
    say(
        f"\nNext: load it with transformers and peft, and train it as any LoRA (its card, {folder / 'README.md'}, says more):"
    )
    say(f"\n{made.snippet}\n")
    if done is None:
        say(
            f"Share it: hubinit push {folder} NAMESPACE/{repo_name(result.spec, 'initialised', 'me').removeprefix('me/')}"
        )
    elif done.queued:
        say("Send it: hubinit sync")


def print_planned_init(planned: PlannedStart, out: Path, repo_id: str | None, as_json: bool) -> None:
    """Prints what `init` would do."""
    there = read_start(out, planned.spec) is not None
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
        say_json(plan)
        return
    spec = planned.spec
    say(f"{spec.method.name} at rank {spec.rank} for {spec.model.id} at {spec.model.revision} in {spec.model.dtype}")
    if planned.own is not None:
        say(f"data: {planned.own.name}, {rows} examples in the form '{planned.own.form}', all of them fit")
    if spec.calibration is not None:
        say(f"calibration: {spec.calibration.samples} examples of at most {spec.calibration.max_length} tokens")
    if planned.trial is not None:
        say(f"learning rate: suggested by the curvature at the start, on {EXAMPLES} examples")
    say(f"folder: {out.resolve()}" + (" (made already)" if there else ""))
    if repo_id:
        say(f"repository: {repo_id}")
    say("Next: the same command without --dry-run.")


def run_publish_inits(request: MatrixRequest, namespace: str, *, public: bool, dry_run: bool, as_json: bool) -> int:
    """Makes and publishes a matrix of start points.

    Returns:
        How many things failed.
    """
    lost: list[str] = []
    planned = plan_matrix(request, lost.append)
    for reason in lost:
        warn(reason)
    for base in dict.fromkeys(start.spec.model.id for start in planned):
        require_hub_id(base)
    check_write(HfApi(), namespace)
    if dry_run:
        print_planned_matrix(planned, as_json)
        return len(lost)

    def note(line: str) -> None:
        warn(line) if as_json else say(line)

    with progress() as report:
        outcome = publish_matrix(planned, Publishing(namespace, not public, command_line(), report, note))
    if as_json:
        say_json({**asdict(outcome), "catalogue": f"{namespace}/{CATALOGUE}"})
    elif outcome.failures:
        warn(f"{len(outcome.failures)} failed, see above; {len(outcome.published)} are published.")
    return len(lost) + len(outcome.failures)


def print_planned_matrix(planned: Sequence[PlannedStart], as_json: bool) -> None:
    """Prints what `publish-inits` would do, as a table or JSON."""
    rows = [
        {
            "model": start.spec.model.id,
            "task": start.group,
            "method": start.spec.method.name,
            "rank": start.spec.rank,
            "key": start.spec.key,
            "state": "to do" if read_start(start.default_folder, start.spec) is None else "made",
        }
        for start in planned
    ]
    if as_json:
        say_json(rows)
        return
    table = folding(*rows[0])
    for row in rows:
        table.add_row(*(Text("-" if value is None else str(value)) for value in row.values()))  # no markup in names
    console.print(table)
