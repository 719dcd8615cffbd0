"""Evaluation results: `.eval_results/*.yaml` of a model, and the leaderboard of a benchmark dataset made from them.

The real Hub admits benchmarks from a list; here every dataset with an `eval.yaml` is one.
"""

from functools import lru_cache
from typing import Any

from hubinit.yamlsafe import load_untrusted_yaml

from .calls import Call
from .cards import CARD_MAX_BYTES, metadata
from .pulls import ref_of
from .records import Repo
from .refusals import Refusal
from .store import Store

FOLDER = ".eval_results/"


@lru_cache(maxsize=4096)
def eval_results(store: Store, sha: str) -> tuple[dict[str, Any], ...]:
    """The results of a model at a commit, each with its file; a file that is not valid gives its error instead."""
    found: list[dict[str, Any]] = []
    for path, entry in sorted(store.tree_of(sha).items()):
        if not path.startswith(FOLDER) or not path.endswith((".yaml", ".yml")):
            continue
        try:
            if entry.size > CARD_MAX_BYTES:
                raise ValueError("the file is too large")
            content = load_untrusted_yaml(store.blobs.path(entry.sha256).read_text())
            entries = [_checked(item) for item in (content if isinstance(content, list) else [content])]
            found += [{"filename": path, "verified": False, "data": item} for item in entries]
        except ValueError as error:
            found.append({"filename": path, "error": str(error)})
    return tuple(found)


def _checked(item: Any) -> dict[str, Any]:
    """One result as JSON.

    Raises:
        ValueError: a required field is missing or has the wrong type.
    """
    dataset = item.get("dataset") if isinstance(item, dict) else None
    if not isinstance(dataset, dict) or not all(isinstance(dataset.get(name), str) for name in ("id", "task_id")):
        raise ValueError("dataset.id and dataset.task_id are required")
    if not isinstance(item.get("value"), int | float) or isinstance(item["value"], bool):
        raise ValueError("value must be a number")
    source = item.get("source")
    if source is not None and not (isinstance(source, dict) and isinstance(source.get("url"), str)):
        raise ValueError("source needs a url")
    return dict(item)


def leaderboard(call: Call, repo: Repo, rest: list[str]) -> list[dict[str, Any]]:
    """GET /api/datasets/ID/leaderboard: the results on a benchmark, best first; by default of models without a base model."""
    if repo.type != "dataset" or "eval.yaml" not in call.store.tree_of(repo.head):
        raise Refusal(404, f"{repo.id} has no leaderboard: it has no eval.yaml.")
    base_only = call.query.get("base_model", "true").lower() in ("1", "true")
    rows: list[dict[str, Any]] = []
    for model in call.store.repos("model"):
        derived = any(tag.startswith("base_model:") for tag in metadata(call.store, "model", model.head).tags)
        if call.may_read(model) and not (base_only and derived):
            rows += _rows(call, model, repo.id)
    rows.sort(key=lambda row: (-row["value"], row["modelId"], row["filename"]))
    return [{"rank": rank} | row for rank, row in enumerate(rows, start=1)]


def _rows(call: Call, model: Repo, dataset_id: str) -> list[dict[str, Any]]:
    """A model's own results on a benchmark, and those that open pull requests propose."""
    sources: list[tuple[str, int | None]] = [(model.head, None)]
    for discussion in model.discussions:
        if discussion["isPullRequest"] and discussion["status"] == "open":
            sources.append((model.refs[ref_of(discussion)], discussion["num"]))
    rows: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []
    for sha, pull in sources:
        for result in eval_results(call.store, sha):
            data = result.get("data")
            if data is None or data["dataset"]["id"] != dataset_id or data in seen:
                continue
            seen.append(data)
            row = {"modelId": model.id, "value": data["value"], "filename": result["filename"], "verified": False}
            row |= {"source": data.get("source"), "notes": data.get("notes"), "pullRequest": pull}
            rows.append(row | {"author": {"type": "user", "name": model.owner, "fullname": model.owner}})
    return rows


ROUTES = {("GET", "leaderboard"): leaderboard}
