"""What `hubinit leaderboard push`, `validate` and `compare` do and print."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import typer
from huggingface_hub import HfApi

from hubinit.cli.boards import check_repo, opened
from hubinit.cli.console import say, say_json, warn
from hubinit.errors import HubinitError
from hubinit.hub.checking import check_submission, merged_claims
from hubinit.hub.manifest import check_text
from hubinit.hub.outbox import Delivered
from hubinit.hub.proposals import fetch_proposal, find_proposal
from hubinit.hub.tables import LEADERBOARD, claims_of, publish_rows, read
from hubinit.leaderboard import table as runs_table
from hubinit.leaderboard import watch_text
from hubinit.leaderboard.build import open_items, to_parquet
from hubinit.leaderboard.items import Answered, Items
from hubinit.leaderboard.verdict import lines, markdown
from hubinit.leaderboard.watch import watch
from hubinit.paths import write_atomically
from hubinit.remote import call

REJECTED = 3  # exit code of `validate` and `compare` where something is wrong


def run_push(sources: Sequence[str], repo_id: str, *, public: bool, as_json: bool) -> None:
    """Publishes rows, and those of submissions that were merged, by one commit."""
    api = HfApi()
    with tempfile.TemporaryDirectory() as name:
        rows, values, folder = runs_table.frame([]), dict[tuple[str, str], Answered](), Path(name)
        if sources:
            rows, values = _rows_and_values(sources)
        if call(f"look for {repo_id}", lambda: api.repo_exists(repo_id, repo_type="dataset"), api=api):
            merged = merged_claims(api, repo_id, read(api, LEADERBOARD, repo_id), folder / "merged")
            for one in merged.rejected:
                warn(f"Left out: {one.place}: {one.reason}")
            rows, values = pd.concat([merged.rows, rows], ignore_index=True), values | merged.values
        elif not sources:
            raise HubinitError(f"{repo_id} is not there yet; say what to publish: a folder of results, or a built one.")
    check_text(str(rows.to_json()), "a row of the leaderboard")
    digest = hashlib.sha256(to_parquet(rows, runs_table.SCHEMA)).hexdigest()[:12]
    title = f"Add {rows['key'].nunique()} runs [{digest}]"
    notes: list[str] = []
    done = publish_rows(
        api, LEADERBOARD, rows, repo_id, title=title, values=values, private=not public, on_problem=notes.append
    )
    delivered = Delivered.to_hub(api, repo_id, "dataset", done, notes)
    if as_json:
        say_json(asdict(delivered) | {"runs": int(rows["key"].nunique()), "rows": len(rows)})
    else:
        say(delivered)


def run_validate(
    source: str, number: int | None, against: str | None, spot: int, report: Path | None, *, as_json: bool
) -> None:
    """Checks a submission and prints the verdict; exits with `REJECTED` where something is wrong."""
    api, local = HfApi(), Path(source).is_dir()
    if local and number is not None:
        raise HubinitError("--pr is of a data set on the Hub; a folder has none.")
    if not local:
        check_repo(source)
    board = against or (None if local else source)
    standing = _standing(api, board) if board else runs_table.frame([])
    with tempfile.TemporaryDirectory() as name:
        folder, wrong, title = Path(source), tuple[str, ...](), source
        if not local:
            warn(f"Fetching what is proposed to {source} …")
            proposal = find_proposal(api, source, number)
            folder, wrong = Path(name), proposal.wrong
            title = f"{source} pull request {number}" if number is not None else f"{source} (merged submissions)"
            fetch_proposal(api, source, proposal, folder)
            if not proposal.files and not wrong:
                raise HubinitError(f"{title} holds no results (runs/<key>/result.json).")
        verdict = check_submission(api, folder, title, standing, files_wrong=wrong, spot=spot, say=warn)
    if report is not None:
        write_atomically(report, markdown(verdict))
    if as_json:
        say_json(verdict.model_dump(mode="json"))
    else:
        for line in lines(verdict):
            say(line)
    if not verdict.accepted:
        raise typer.Exit(REJECTED)


def run_compare(old: str, new: str, report: Path | None, *, as_json: bool) -> None:
    """Prints what became worse; exits with `REJECTED` where something did."""
    (before, before_values), (after, after_values) = _rows_and_values([old]), _rows_and_values([new])
    found = watch(before, after, before_values, after_values)
    if report is not None:
        write_atomically(report, watch_text.markdown(found))
    if as_json:
        say_json(found.model_dump(mode="json") | {"worse": found.worse})
    else:
        for line in watch_text.lines(found):
            say(line)
    if found.worse:
        raise typer.Exit(REJECTED)


def _rows_and_values(sources: Sequence[str]) -> tuple[pd.DataFrame, Items]:
    """The rows of a leaderboard that was built, or of what `build` takes, and their values by question."""
    with opened(sources) as (board, folder):
        return board.runs, open_items(folder)


def _standing(api: HfApi, board: str) -> pd.DataFrame:
    """The rows of a leaderboard: a built folder, one of results, or a data set."""
    return _rows_and_values([board])[0] if Path(board).is_dir() else claims_of(api, board).rows
