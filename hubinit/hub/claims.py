"""Whose row a key is, where two contradict each other: the published adapter says it, else who was there first."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from hubinit.errors import HubError
from hubinit.hub.manifest import read_manifest
from hubinit.hub.revisions import Source, fetch, history
from hubinit.hub.untrusted import Unreadable
from hubinit.leaderboard.table import DECISIVE, table
from hubinit.records import MANIFEST, RunResult
from hubinit.remote import call

DISPUTES = 100  # keys whose adapters are looked up in one commit
MANIFEST_BYTES = 5_000_000


def proven_runs(source: Source, parent: str | None, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows that a published adapter proves, then those that were there first."""
    namespace = source.repo_id.split("/")[0]
    keys = map(str, rows["key"].unique()[:DISPUTES])
    results = [result for key in keys for _, result in published_runs(source.api, key, namespace)]
    stated = set(map(tuple, _plain(table(results)[DECISIVE])))
    proven = [tuple(row) in stated for row in _plain(rows[DECISIVE])]
    return pd.concat([rows[proven], claimed_first(source, parent, rows)], ignore_index=True)


def claimed_first(source: Source, parent: str | None, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows that the history of the data set had first, by key."""
    decisive = [tuple(row) for row in _plain(rows[DECISIVE])]
    first: dict[str, list[int]] = {}
    for _, content in history(source, parent):
        if content is not None:
            held = set(map(tuple, _plain(content.rows.loc[content.rows["key"].isin(rows["key"]), DECISIVE])))
            here: dict[str, list[int]] = {}
            for position, row in enumerate(decisive):
                if row in held:
                    here.setdefault(row[0], []).append(position)
            first |= here
    return rows.iloc[[position for positions in first.values() for position in positions]]


def published_runs(api: HfApi, key: str, author: str | None = None) -> Iterator[tuple[str, RunResult]]:
    """The trained adapters of a key on the Hub and the results that they state, if their weights are the same.

    Args:
        api: client.
        key: of the run.
        author: whose adapters are looked at. Default: anybody's, so that the repo proves nothing but its own weights.
    """
    try:
        found = call(
            "look for adapters", lambda: list(api.list_models(author=author, search=key[:8], limit=5)), api=api
        )
        for repo in found:
            content = fetch(api, repo.id, MANIFEST, None, limit=MANIFEST_BYTES, repo_type="model")
            manifest = read_manifest(content, repo.id) if content is not None else None
            if manifest is None or manifest.kind != "trained" or manifest.result.key != key:
                continue
            if _weights(api, repo.id) == manifest.result.adapter_sha256 is not None:
                yield repo.id, manifest.result
    except (HubError, Unreadable):  # nothing is proven
        return


def _weights(api: HfApi, repo_id: str) -> str | None:
    """The sha256 of an adapter's weights, as the Hub states it."""
    path = "adapter_model.safetensors"
    found = call(f"read {path} of {repo_id}", lambda: api.get_paths_info(repo_id, [path]), api=api)
    return found[0].lfs.sha256 if found and isinstance(found[0], RepoFile) and found[0].lfs else None


def _plain(rows: pd.DataFrame) -> list[list[Any]]:
    return [[None if pd.isna(value) else value for value in row] for row in rows.itertuples(index=False)]
