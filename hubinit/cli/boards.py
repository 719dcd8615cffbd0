"""What `hubinit leaderboard build`, `export` and `recommend` do and print."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi

from hubinit.cli.console import say, say_json, warn
from hubinit.errors import HubinitError
from hubinit.hub.checking import merged_claims
from hubinit.hub.tables import claims_of
from hubinit.leaderboard.app.commands import train_command
from hubinit.leaderboard.build import Claims, Leaderboard, build, is_built, open_leaderboard
from hubinit.leaderboard.export import Format, export
from hubinit.leaderboard.recommend import Recommendation, label, recommend
from hubinit.leaderboard.rows import printed
from hubinit.leaderboard.sweeps import records
from hubinit.models.names import resolve
from hubinit.paths import write_atomically

SHOWN = 5  # rejected rows that are named


def run_build(sources: Sequence[str], out: Path, *, as_json: bool) -> None:
    """Builds the leaderboard's files and says what came of it."""
    board = build_from(sources, out)
    lines = int((board.summary["origin"] == "measured").sum())
    if as_json:
        counts = {"out": str(out), "runs": int(board.runs["key"].nunique()), "rows": len(board.runs), "lines": lines}
        counts |= {"read": board.read, "found": board.found}
        say_json(counts | {"rejected": [one.model_dump() for one in board.rejected]})
        return
    say(
        f"{out}: {board.runs['key'].nunique()} runs in {len(board.runs)} rows, {lines} lines of the summary; "
        f"{board.read} of {board.found} result files were new or changed."
    )
    for one in board.rejected[:SHOWN]:
        warn(f"Left out: {one.source} {one.place}: {one.reason}")
    if len(board.rejected) > SHOWN:
        warn(f"… and {len(board.rejected) - SHOWN} more; rejected.jsonl names them all.")


def run_export(sources: Sequence[str], form: Format, to: Path | None) -> None:
    """Prints the leaderboard, or writes it to a file."""
    with opened(sources) as (board, _):
        text = export(board, form)
    if to is None:
        print(text, end="")
        return
    write_atomically(to, text)
    say(to)


def run_recommend(
    sources: Sequence[str], model: str, task: str, seconds: float | None, memory: float | None, *, as_json: bool
) -> None:
    """Prints what to take."""
    with opened(sources) as (board, _):
        found = recommend(board.summary, resolve(model).id, task, seconds, memory)
        command = command_of(found, model, board)
    if as_json:
        say_json(json.loads(json.dumps(asdict(found), default=float)) | {"command": command})
        return
    say(f"{label(found.evidence)} at learning rate {found.lr:g}, rank {found.rank}; sure: {found.sure}")
    for reason in found.reasons:
        say(f"  {reason}")
    beside = "Not told apart" if found.evidence["place"] is None else "As good within chance"
    for line in found.alternatives:
        say(f"  {beside}: {label(line)} at {line['lr']:g}, {printed(line['metric']) * line['value']:.1f}")
    for method, why in found.left_out.items():
        say(f"  Over the budget: {method} ({why})")
    for line in found.reported:
        say(f"  Reported, not measured here: {line['method']} {line['metric']} {line['value']:g} ({line['source']})")
    if command is not None:
        say(command)


def command_of(found: Recommendation, model: str, board: Leaderboard) -> str | None:
    """The command that trains the model as the evidence was; whatever strangers named, a shell sees it as one word."""
    run = board.runs[board.runs["key"] == found.evidence["keys"].split()[0]].head(1)
    return train_command(records(run)[0] | {"model": model})


@contextmanager
def opened(sources: Sequence[str]) -> Iterator[tuple[Leaderboard, Path]]:
    """A leaderboard that was built, or one built now that is kept inside the block only; and the folder with its files."""
    folder = Path(sources[0])
    if len(sources) == 1 and is_built(folder):
        yield open_leaderboard(folder), folder
        return
    with tempfile.TemporaryDirectory() as place:
        yield build_from(sources, Path(place)), Path(place)


def build_from(sources: Sequence[str], out: Path) -> Leaderboard:
    """Builds from folders of results and leaderboard data sets on the Hub.

    Raises:
        HubinitError: a source is neither, or there are no results.
    """
    folders = [(source, Path(source)) for source in sources if Path(source).is_dir()]
    repos = [source for source in sources if not Path(source).is_dir()]
    for source in repos:
        check_repo(source)
    warn(f"Reading {', '.join(sources)} …")
    board = build(folders, [claims for repo in repos for claims in _claims(repo)], out)
    if board.runs.empty:
        reason = f" The first that was left out: {board.rejected[0].reason}." if board.rejected else ""
        raise HubinitError(
            f"{', '.join(sources)}: there are no results; give a folder that `hubinit bench --out` wrote.{reason}"
        )
    return board


def check_repo(source: str) -> None:
    """Checks that what is not a folder may be a data set on the Hub.

    Raises:
        HubinitError: it cannot be.
    """
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise HubinitError(f"{source} is neither a folder of results nor a data set on the Hub (owner/name).")


def _claims(repo: str) -> Iterator[Claims]:
    """The rows of a data set, then those of submissions that were merged and are not in them yet."""
    rows = claims_of(HfApi(), repo)
    yield rows
    with tempfile.TemporaryDirectory() as folder:
        yield merged_claims(HfApi(), repo, rows.rows, Path(folder))
