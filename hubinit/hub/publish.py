"""Publishing what a run made: its adapters, one atomic commit per repo, and its rows in the leaderboard dataset."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from hubinit.bench.results import RunResult
from hubinit.config import RunSpec
from hubinit.errors import HubError
from hubinit.hub.cards import adapter_card, leaderboard_card
from hubinit.hub.client import HUB_ERRORS, Commit, Operation, RepoType, call, commit, ensure_repo, show
from hubinit.hub.manifest import CARD, FILE_NAME, Manifest, check_text, checked_files, read_manifest, sha256
from leaderboard.aggregate import SCHEMA, failures, frame, merge, rank, table
from leaderboard.render import markdown

Kind = Literal["initialised", "trained"]
FOLDERS: dict[Kind, str] = {"initialised": "init", "trained": "adapter"}
LEADERBOARD_FILE = "data/runs-00000-of-00001.parquet"
NAME_LENGTH = 96
_UNREADABLE: tuple[type[Exception], ...] = (*HUB_ERRORS, ValueError)


@dataclass(frozen=True)
class PublishedRepo:
    """A repo that now has what was to be published; `commit` is None when it had it before."""

    repo_id: str
    repo_type: RepoType
    commit: Commit | None = None


@dataclass(frozen=True)
class Publication:
    """The whole content of an adapter repo: bytes of small files, paths of large ones."""

    repo_id: str
    manifest: Manifest
    files: dict[str, bytes | Path]


def publish_run(
    api: HfApi,
    result: RunResult,
    folder: Path,
    namespace: str,
    *,
    private: bool = True,
    datasets: Mapping[str, str] | None = None,
    suite: str | None = None,
) -> list[PublishedRepo]:
    """Publishes the adapters of a finished run, each in a repo of its own.

    Args:
        api: client with a token that may write to `namespace`.
        result: the run.
        folder: its folder; `adapter/` is the trained adapter as plain LoRA, `init/` its start point. What is missing is
            not published (`none` has neither).
        namespace: user or organisation.
        private: whether new repos are private. A repo that is there stays as visible as it is, or becomes public.
        datasets: Hub dataset id of each task, for the cards.
        suite: what to call the training data in the repo's name when it is more than one task.

    Raises:
        HubError: a file that must not be published, or the Hub refuses.
    """
    licence = base_licence(api, result.spec.model.id, result.spec.model.revision)
    publications = [
        publication(result, folder / sub, kind, namespace, licence=licence, datasets=datasets, suite=suite)
        for kind, sub in FOLDERS.items()
        if (folder / sub).is_dir()
    ]
    return [send(api, one, private=private) for one in publications]


def publication(
    result: RunResult,
    folder: Path,
    kind: Kind,
    namespace: str,
    *,
    licence: Mapping[str, Any] | None = None,
    datasets: Mapping[str, str] | None = None,
    suite: str | None = None,
) -> Publication:
    """Everything that an adapter repo will hold, checked; touches no network.

    Raises:
        HubError: a file that must not be published, or no adapter in the folder.
    """
    from hubinit.methods import METHODS  # imports torch, which the leaderboard does without

    spec = result.spec
    if not _is_hub_id(spec.model.id):
        raise HubError(
            f"{spec.model.id} is not a model on a Hub, so nobody could load an adapter for it; push the base first."
        )
    paths = {name: path for name, path in checked_files(folder).items() if name not in (CARD, FILE_NAME)}
    if missing := {"adapter_config.json", "adapter_model.safetensors"} - paths.keys():
        raise HubError(f"{folder} is not a PEFT adapter: {' and '.join(sorted(missing))} is missing.")
    files: dict[str, bytes | Path] = {}
    for name, path in paths.items():
        files[name] = _on_the_hub(path, spec) if path.name == "adapter_config.json" else path
    hashes = {name: _sha256(content) for name, content in files.items()}
    manifest = Manifest(kind=kind, result=result, files=hashes)
    repo_id = repo_name(spec, kind, namespace, suite)
    other: Kind = "trained" if kind == "initialised" else "initialised"
    card = adapter_card(
        manifest,
        repo_id,
        counterpart=repo_name(spec, other, namespace, suite) if (folder.parent / FOLDERS[other]).is_dir() else None,
        licence=licence,
        datasets={task: name for task, name in (datasets or {}).items() if _is_hub_id(name)},
        method=METHODS.get(spec.method.name),
        num_labels=_num_labels(paths["adapter_model.safetensors"]) if spec.model.kind == "vision" else None,
    )
    for name, text in ((CARD, card), (FILE_NAME, manifest.json_text())):
        check_text(text, name)
        files[name] = text.encode()
    return Publication(repo_id, manifest, files)


def send(api: HfApi, publication: Publication, *, private: bool = True) -> PublishedRepo:
    """Publishes one adapter repo by one commit; does nothing when it is there already.

    A start point is shared by all runs that differ only in how they train (learning rate, steps): the first one publishes
    it, and the others leave it alone as long as its weights are the same.

    Raises:
        HubError: the Hub refuses.
    """
    repo_id, manifest = publication.repo_id, publication.manifest

    def build(parent: str | None) -> list[Operation]:
        if manifest.kind == "initialised" and _remote_files(api, repo_id, parent) == manifest.files:
            return []
        return additions(publication.files)

    ensure_repo(api, repo_id, "model")
    done = commit(api, repo_id, "model", build, message=f"{manifest.result.spec.method.name}: {manifest.kind} adapter")
    if not private:
        show(api, repo_id, "model")
    return PublishedRepo(repo_id, "model", done)


def publish_leaderboard(
    api: HfApi, results: Iterable[RunResult], repo_id: str, *, private: bool = True
) -> PublishedRepo:
    """Adds the rows of `results` to the leaderboard dataset and renews its ranking.

    Any number of publishers may do this at the same time: rows are merged with those at the parent of the commit, and the
    commit is rebuilt when the parent has changed.

    Raises:
        HubError: the Hub refuses, or the dataset there is not a leaderboard.
    """
    new = table(results)

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
    done = commit(api, repo_id, "dataset", build, message=f"Add {new['key'].nunique()} runs")
    if not private:
        show(api, repo_id, "dataset")
    return PublishedRepo(repo_id, "dataset", done)


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
            f"{LEADERBOARD_FILE} of {repo_id} is not a table of hubinit runs; publish to another dataset."
        ) from error


def parquet(runs: pd.DataFrame) -> bytes:
    """The rows as one parquet file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(runs, schema=SCHEMA, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()


def read_file(
    api: HfApi, repo_id: str, path: str, *, repo_type: RepoType = "model", revision: str | None = None
) -> bytes | None:
    """The content of one file on the Hub, or None when the repo has no such file."""

    def read() -> bytes | None:
        try:
            local = api.hf_hub_download(repo_id, path, repo_type=repo_type, revision=revision)
        except EntryNotFoundError as error:
            if isinstance(error, FileNotFoundError):  # not in the cache and the Hub was not reached
                raise
            return None
        return Path(local).read_bytes()

    return call(f"read {path} of {repo_id}", read, api=api)


def additions(files: Mapping[str, bytes | Path]) -> list[Operation]:
    """Fresh commit operations that add `files`."""
    return [CommitOperationAdd(name, content) for name, content in sorted(files.items())]


def repo_name(spec: RunSpec, kind: Kind, namespace: str, suite: str | None = None) -> str:
    """`<namespace>/<model>-<method>[-init]-r<rank>-<data>-<key>`: stable, valid on the Hub, at most 96 characters.

    The key of a start point leaves out how the run trains from there, so that all learning rates share it.
    """
    tasks = spec.data.tasks if spec.data else ()
    data = suite or ("-".join(tasks) if len(tasks) < 3 else f"{tasks[0]}-and-{len(tasks) - 1}-more")
    start = spec.model_copy(update={"recipe": None, "learning_rate": 0.0})
    key = (start if kind == "initialised" else spec).key
    tail = [spec.method.name, *(["init"] if kind == "initialised" else []), f"r{spec.rank}", data]
    end = f"-{key[:8]}"
    room = NAME_LENGTH - len(namespace) - 1 - len(end)
    name = "-".join(_slug(part) for part in [spec.model.id.split("/")[-1].lower(), *tail] if _slug(part))
    return f"{namespace}/{name[:room].rstrip('-.')}{end}"


def base_licence(api: HfApi, model: str, revision: str | None) -> dict[str, Any]:
    """`license`, `license_name` and `license_link` as the base model's card states them; empty when it cannot be read."""
    try:
        path = api.hf_hub_download(model, CARD, revision=revision)
        data = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except _UNREADABLE:
        return {}
    return {key: data[key] for key in ("license", "license_name", "license_link") if isinstance(data.get(key), str)}


def _is_hub_id(name: str) -> bool:
    """Whether others can find this on a Hub; a local folder means nothing to them."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) is not None and not Path(name).exists()


def _slug(text: str) -> str:
    return re.sub(r"[-.]{2,}", "-", re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)).strip("-.")


def _on_the_hub(path: Path, spec: RunSpec) -> bytes:
    """The adapter's configuration with the base as others know it: its Hub id, never a local path."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = spec.model.id
    config["revision"] = spec.model.revision
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _sha256(content: bytes | Path) -> str:
    return sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _remote_files(api: HfApi, repo_id: str, revision: str | None) -> dict[str, str] | None:
    """The hashes that the manifest on the Hub states; None without one."""
    content = read_file(api, repo_id, FILE_NAME, revision=revision)
    return read_manifest(content, repo_id).files if content else None


def _num_labels(weights: Path) -> int | None:
    """Classes of the trained head that is saved with an image classifier's adapter."""
    with safe_open(weights, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            if name.endswith("classifier.weight"):
                return int(file.get_slice(name).get_shape()[0])
    return None
