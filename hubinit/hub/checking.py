"""The whole check of a submission, and what merged ones bring to a leaderboard."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from huggingface_hub import HfApi

from hubinit.hub.claims import published_runs
from hubinit.hub.proposals import fetch_proposal, find_proposal
from hubinit.hub.rescoring import rescore
from hubinit.hub.spot_check import spot_check
from hubinit.leaderboard.build import Claims
from hubinit.leaderboard.sources import Rejected, items_of
from hubinit.leaderboard.submission import Submitted, read_submission, settle
from hubinit.leaderboard.verdict import Verdict, judge
from hubinit.paths import open_regular, sha256_of

WEIGHTS = "adapter_model.safetensors"
Say = Callable[[str], None]


def check_submission(
    api: HfApi,
    folder: Path,
    source: str,
    standing: pd.DataFrame,
    *,
    files_wrong: Sequence[str] = (),
    spot: int = 0,
    say: Say = lambda line: None,
) -> Verdict:
    """Checks what was handed in: form, ranges, duplicates, provenance, adapters, and the stored answers by the tasks' rules.

    Args:
        api: for data sets and published adapters.
        folder: whose `runs/` is read.
        source: its name in the verdict.
        standing: rows of the leaderboard that it would go to.
        files_wrong: what is wrong with files that are not in the folder.
        spot: questions of each task that the adapter answers again; 0 for none.
        say: told what is done.

    Raises:
        HubinitError: there is not a single run.
    """

    def check(run: Submitted) -> None:
        if run.result is not None and not run.wrong:
            say(f"Checking {run.key} …")
            rescore(run)
            adapter = find_adapter(api, run, folder)
            if spot and not run.wrong:
                spot_check(run, adapter, spot)
        run.items.clear()

    runs = [Submitted("", wrong=list(files_wrong))] if files_wrong else []
    if (folder / "runs").is_dir() or not runs:
        runs += read_submission(folder, check)
    return judge(source, runs, settle(runs, standing))


def find_adapter(api: HfApi, run: Submitted, folder: Path) -> str | None:
    """Where the adapter of a run is, in its folder or on the Hub; `wrong`, `notes` and `checks` say what its hash is."""
    assert run.result is not None
    wanted = run.result.adapter_sha256
    if wanted is None:
        return None
    beside = folder / "runs" / run.key / "adapter"
    if (beside / WEIGHTS).exists() and not beside.is_symlink():
        open_regular(beside / WEIGHTS).close()  # no link, no pipe
        if sha256_of(beside / WEIGHTS) != wanted:
            run.wrong.append("the adapter beside it is not the one that was scored (another sha256)")
            return None
        run.checks.append("the adapter beside it is the one that was scored (sha256)")
        return str(beside)
    for repo, stated in published_runs(api, run.key):
        if stated.adapter_sha256 == wanted:
            run.checks.append(f"the adapter is published in {repo} (sha256)")
            return repo
    run.notes.append("its adapter was not found, neither beside it nor on the Hub, so nobody can load it")
    return None


def merged_claims(api: HfApi, repo_id: str, standing: pd.DataFrame, folder: Path) -> Claims:
    """What submissions that were merged into a data set bring, beyond the rows that it has.

    Their answers were scored again before they were merged; here form, ranges and contradictions are checked once more.

    Args:
        api: client.
        repo_id: the data set.
        standing: its rows.
        folder: an empty one for what is downloaded.

    Raises:
        HubError: it cannot be read.
    """
    proposal = find_proposal(api, repo_id, None)
    known, there = set(standing["key"]), set(standing["items"].dropna())
    keys = {  # of runs that are new, or bring answers that are: another task of a known adapter
        name.split("/")[1]
        for name in proposal.files
        if name.split("/")[1] not in known or (name.endswith(".parquet") and proposal.contents[name] not in there)
    }
    fresh = tuple(name for name in proposal.files if name.split("/")[1] in keys)
    wrong = [Rejected(source=repo_id, place="runs", reason=reason) for reason in proposal.wrong]
    if not fresh:
        return Claims(repo_id, standing.iloc[:0], tuple(wrong))
    fetch_proposal(api, repo_id, replace(proposal, files=fresh), folder)
    runs = read_submission(folder, lambda run: run.items.clear())
    rows = settle(runs, standing)
    results = [run.result for run in runs if run.result is not None and not run.wrong]
    wrong += [
        Rejected(source=repo_id, place=f"runs/{run.key}", reason=reason) for run in runs for reason in run.wrong[:1]
    ]
    return Claims(repo_id, rows, tuple(wrong), values=items_of(rows, results, folder, lambda problem: None))
