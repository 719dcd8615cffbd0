"""Publishing: an adapter repo by one atomic commit, and the rows of runs in the leaderboard dataset."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from hubinit.errors import HubError
from hubinit.hub.cards import leaderboard_card
from hubinit.hub.manifest import CARD, FILE_NAME, check_text, read_manifest
from hubinit.hub.publication import Publication
from hubinit.records import RunResult
from hubinit.remote import Commit, Operation, RepoType, commit, ensure_repo, read_file, show
from leaderboard.aggregate import SCHEMA, failures, frame, merge, rank, table
from leaderboard.render import markdown

LEADERBOARD_FILE = "data/runs-00000-of-00001.parquet"


@dataclass(frozen=True)
class PublishedRepo:
    """A repo that now has what was to be published; `commit` is None when it had it before."""

    repo_id: str
    repo_type: RepoType
    commit: Commit | None = None


def send(api: HfApi, publication: Publication, *, private: bool = True, create_pr: bool = False) -> PublishedRepo:
    """Publishes one adapter repo by one commit; does nothing when it is there already.

    A start point is shared by all runs that differ only in how they train (learning rate, steps): the first one publishes
    it, and the others leave it alone as long as its weights are the same.

    Args:
        api: client with a token that may write there, or only read when `create_pr`.
        publication: what to send.
        private: whether a new repo is private.
        create_pr: propose it to an existing repo.

    Raises:
        HubError: the Hub refuses.
    """
    repo_id, manifest = publication.repo_id, publication.manifest

    def build(parent: str | None) -> list[Operation]:
        published = _published_files(api, repo_id, parent)
        if manifest and manifest.kind == "initialised" and published == manifest.files:
            return []
        stale = published.keys() - publication.files.keys()
        if stale:
            stale &= set(api.list_repo_files(repo_id, revision=parent))
        return [
            *additions(publication.files),
            *(CommitOperationDelete(name, is_folder=False) for name in sorted(stale)),
        ]

    if not create_pr:
        ensure_repo(api, repo_id, "model")
    done = commit(api, repo_id, "model", build, message=publication.message, create_pr=create_pr)
    if not private and not create_pr:
        show(api, repo_id, "model")
    return PublishedRepo(repo_id, "model", done)


def publish_leaderboard(
    api: HfApi, results: Iterable[RunResult], repo_id: str, *, private: bool = True
) -> PublishedRepo:
    """Adds the rows of `results` to the leaderboard dataset and renews its ranking.

    Any number of publishers may do this at the same time: rows are merged with those at the parent of the commit, and the
    commit is rebuilt when the parent has changed.

    Raises:
        HubError: the Hub refuses, the dataset there is not a leaderboard, or a result holds an access token.
    """
    results = list(results)
    new = table(results)
    check_text(new.to_csv(), "a run result")

    def build(parent: str | None) -> list[Operation]:
        old = read_leaderboard(api, repo_id, parent)
        runs = merge(frame([]) if old is None else old, new)
        card = leaderboard_card(
            repo_id,
            markdown(rank(runs), failures(runs)),
            runs=runs["key"].nunique(),
            rows=len(runs),
            models=sorted(runs["model"].unique()),
            path=LEADERBOARD_FILE,
        )
        check_text(card, CARD)
        operations: list[Operation] = [CommitOperationAdd(CARD, card.encode())]
        if old is None or not runs.equals(old):
            operations.append(CommitOperationAdd(LEADERBOARD_FILE, parquet(runs)))
        return operations

    ensure_repo(api, repo_id, "dataset")
    done = commit(api, repo_id, "dataset", build, message=leaderboard_message(results))
    if not private:
        show(api, repo_id, "dataset")
    return PublishedRepo(repo_id, "dataset", done)


def leaderboard_message(results: list[RunResult]) -> str:
    """Title of the commit that adds these results; names the content."""
    text = json.dumps(sorted(result.model_dump_json() for result in results))
    return f"Add {len(results)} runs [{hashlib.sha256(text.encode()).hexdigest()[:12]}]"


def read_leaderboard(api: HfApi, repo_id: str, revision: str | None = None) -> pd.DataFrame | None:
    """The rows of a leaderboard dataset, or None when it has none yet.

    Raises:
        HubError: it cannot be read, or is not a leaderboard.
    """
    content = read_file(api, repo_id, LEADERBOARD_FILE, repo_type="dataset", revision=revision)
    if content is None:
        return None
    try:
        return frame(pq.read_table(io.BytesIO(content)).to_pylist())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise HubError(
            f"{LEADERBOARD_FILE} of {repo_id} is not a table of hubinit runs; use another dataset."
        ) from error


def parquet(runs: pd.DataFrame) -> bytes:
    """The rows as one parquet file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(runs, schema=SCHEMA, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()


def additions(files: Mapping[str, bytes | Path]) -> list[Operation]:
    """Fresh commit operations that add `files`."""
    return [CommitOperationAdd(name, content) for name, content in sorted(files.items())]


def _published_files(api: HfApi, repo_id: str, revision: str | None) -> dict[str, str]:
    """The files that hubinit put into a repo, with their hashes as its manifest states them; empty without one."""
    content = read_file(api, repo_id, FILE_NAME, revision=revision)
    return read_manifest(content, repo_id).files if content else {}
