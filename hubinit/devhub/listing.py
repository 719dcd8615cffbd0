"""Describing repos: one with all it has, or lists of them with search, filters, order and pages."""

from typing import Any

from starlette.responses import Response

from .calls import Call
from .cards import Metadata, metadata
from .evals import eval_results
from .files import file_object
from .names import RepoType
from .records import Repo

ALWAYS = ("_id", "id", "private", "tags", "likes", "downloads", "createdAt")
IN_LISTS = (
    *ALWAYS,
    "modelId",
    "author",
    "pipeline_tag",
    "library_name",
    "lastModified",
    "sha",
    "gated",
    "disabled",
    "sdk",
)


def describe(call: Call, repo: Repo, sha: str, *, blobs: bool = False) -> dict[str, Any]:
    """Everything the Hub says about a repo at a commit, under the Hub's names."""
    facts = metadata(call.store, repo.type, sha)
    tree = call.store.tree_of(sha)
    siblings = [
        {"rfilename": path} | (file_object(path, entry, siblings=True) if blobs else {}) for path, entry in tree.items()
    ]
    return {
        "_id": repo.uid,
        "id": repo.id,
        "author": repo.owner,
        "sha": sha,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(facts.tags),
        "createdAt": repo.created,
        "lastModified": call.store.commit_of(repo.head).date,
        "siblings": siblings,
        "cardData": facts.card,
        "usedStorage": sum(entry.size for entry in tree.values()),
        **_special(call, repo, facts, sha),
    }


def _special(call: Call, repo: Repo, facts: Metadata, sha: str) -> dict[str, Any]:
    """What only models, or only Spaces, have."""
    if repo.type == "space":
        return {"sdk": repo.sdk, "runtime": {"stage": "NO_APP_FILE", "hardware": {"current": None, "requested": None}}}
    if repo.type == "dataset":
        return {}
    special: dict[str, Any] = {
        "modelId": repo.id,
        "pipeline_tag": facts.pipeline,
        "library_name": facts.library,
        "config": facts.config,
        "model-index": facts.card.get("model-index"),
        "evalResults": list(eval_results(call.store, sha)) or None,
    }
    if facts.parameters:
        special["safetensors"] = {"parameters": facts.parameters, "total": sum(facts.parameters.values())}
    return {name: value for name, value in special.items() if value is not None}


def info(call: Call, repo: Repo, rest: list[str]) -> dict[str, Any]:
    """GET /api/T/id and /api/T/id/revision/REV."""
    sha = call.store.resolve(repo, rest[0] if rest else "main")
    described = describe(call, repo, sha, blobs=call.flag("blobs"))
    return _chosen(call, described, ())


def _chosen(call: Call, described: dict[str, Any], default: tuple[str, ...]) -> dict[str, Any]:
    """The fields that were asked for with `expand`, or the default ones (all of them when `default` is empty)."""
    wanted = set(call.query.getlist("expand")) or set(default)
    if not wanted:
        return described
    return {name: value for name, value in described.items() if name in wanted | {"_id", "id", "modelId"}}


def repo_list(call: Call, repo_type: RepoType) -> Response:
    """GET /api/models, /api/datasets, /api/spaces: what the asker may see."""
    found = [repo for repo in call.store.repos(repo_type) if call.may_read(repo) and _matches(call, repo)]
    order = call.query.get("sort", "trendingScore")
    if order in ("lastModified", "createdAt", "trendingScore"):
        created = order == "createdAt"
        found.sort(key=lambda repo: repo.created if created else call.store.commit_of(repo.head).date)
        if call.query.get("direction") != "1":
            found.reverse()
    extra = [name for name in ("cardData", "config") if call.flag(name)]
    fields = (*IN_LISTS, *extra, *(("siblings", "cardData") if call.flag("full") else ()))
    return call.page(found, lambda repo: _chosen(call, describe(call, repo, repo.head), fields))


def _matches(call: Call, repo: Repo) -> bool:
    query = call.query
    if (author := query.get("author")) and repo.owner != author:
        return False
    if any(text.lower() not in repo.id.lower() for text in query.getlist("search")):
        return False
    if "gated" in query and bool(repo.gated) != call.flag("gated"):
        return False
    if "sdk" in query and repo.sdk not in query.getlist("sdk"):
        return False
    wanted = [*query.getlist("filter"), *query.getlist("pipeline_tag")]
    if not wanted:
        return True
    facts = metadata(call.store, repo.type, repo.head)
    return set(wanted) <= {*facts.tags, facts.pipeline, facts.library}


ROUTES = {("GET", ""): info, ("GET", "revision"): info}
