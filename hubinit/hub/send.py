"""Sending an adapter repo by one atomic commit; `hubinit push DIR REPO` for one folder by hand."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from hubinit.adapters.mark import check_anchor_kept
from hubinit.errors import HubError
from hubinit.hub.manifest import Content, content_hash, list_files, parse_manifest, read_manifest
from hubinit.hub.publication import FOLDERS, Publication, base_licence, of_adapter
from hubinit.records import MANIFEST, AdapterKind, Manifest, read_result
from hubinit.remote import Commit, Operation, commit, ensure_repo, read_file, show


def send(
    api: HfApi, publication: Publication, *, private: bool = True, create_pr: bool = False, replace: bool = True
) -> Commit | None:
    """Publishes one adapter repo by one commit; does nothing when it is there already.

    A start point is shared by all runs that differ only in how they train (learning rate, steps): the first one publishes
    it, and the others leave it alone as long as its weights are the same.

    Args:
        api: client with a token that may write there, or only read when `create_pr`.
        publication: what to send.
        private: whether a new repo is private.
        create_pr: propose it to an existing repo.
        replace: whether it may take the place of another start point, which others may have trained from.

    Returns:
        The commit, or None when the repo had all of it before.

    Raises:
        HubError: the Hub refuses, or the repo holds another start point.
    """
    repo_id, manifest = publication.repo_id, publication.manifest

    def build(parent: str | None) -> list[Operation]:
        there = _published(api, repo_id, parent)
        published = there.files if there else {}
        if manifest and manifest.kind == "initialised" and published == manifest.files:
            return []
        if there and there.kind == "initialised" and not (replace or create_pr):
            raise HubError(
                f"{repo_id} holds another start point, and adapters trained from it need exactly that one; "
                "choose another name, propose it with --create-pr, or replace it with --force."
            )
        stale = published.keys() - publication.files.keys()
        if stale:
            stale &= set(api.list_repo_files(repo_id, revision=parent))
        return [
            *(_add(name, content) for name, content in sorted(publication.files.items())),
            *(CommitOperationDelete(name, is_folder=False) for name in sorted(stale)),
        ]

    if not create_pr:
        ensure_repo(api, repo_id, "model")
    done = commit(api, repo_id, "model", build, message=publication.message, create_pr=create_pr)
    if not private and not create_pr:
        show(api, repo_id, "model")
    return done


def push(
    api: HfApi,
    directory: Path,
    repo_id: str,
    *,
    create_pr: bool = False,
    public: bool = False,
    force: bool = False,
) -> Commit | None:
    """Publishes an adapter folder by one commit; does nothing when the repo has it already.

    Args:
        api: client with a token.
        directory: `init/` or `adapter/` of a run, a folder pulled or written by `hubinit init` or `hubinit.export` (with
            `hubinit.json`), or any PEFT adapter. The card is hubinit's where the provenance is known, else the folder's own
            README.md.
        repo_id: `namespace/name`.
        create_pr: propose it as a pull request to an existing repo, which needs no right to write there.
        public: new repos are private unless this is set.
        force: replace another start point that the repo holds.

    Returns:
        The commit, or None when the repo had all of it before.

    Raises:
        HubError: a file that must not be published, files that do not fit their `hubinit.json`, a repo that holds another
            start point, or the Hub refuses.
    """
    publication = of_folder(api, directory, repo_id)
    return send(api, publication, private=not public, create_pr=create_pr, replace=force)


def of_folder(api: HfApi, directory: Path, repo_id: str) -> Publication:
    """What `push` would publish.

    Raises:
        HubError: a file that must not be published, or files that do not fit their `hubinit.json`.
        HubinitError: an adapter that lost its anchor.
    """
    if repo_id.count("/") != 1:
        raise HubError(f"'{repo_id}' is not a full repo name; give it as namespace/name.")
    files = list_files(directory)
    if "result.json" in files:
        raise HubError(f"{directory} is the folder of a run; push its {' or '.join(FOLDERS.values())} folder.")
    check_anchor_kept(directory)
    manifest = _manifest(directory, files)
    if manifest is None:
        if "adapter_config.json" not in files:
            raise HubError(f"{directory} holds no adapter (adapter_config.json); give the folder of a PEFT adapter.")
        return Publication(repo_id, files)
    licence = base_licence(api, manifest.result.spec)
    return of_adapter(manifest.result, directory, manifest.kind, repo_id, licence=licence)


def _add(name: str, content: Content) -> CommitOperationAdd:
    """Adds a file to a commit, if it still is the one that was checked.

    Raises:
        HubError: it was changed since.
    """
    if isinstance(content, bytes):
        return CommitOperationAdd(name, content)
    operation = CommitOperationAdd(name, content.path)
    if operation.upload_info.sha256.hex() != content.sha256:
        raise HubError(f"{content.path} was changed while it was being published; run the same command again.")
    return operation


def _manifest(directory: Path, files: Mapping[str, Content]) -> Manifest | None:
    """The provenance of a folder: the result of the run it belongs to, or else its `hubinit.json`."""
    resolved = directory.resolve()
    kind: AdapterKind | None = next((kind for kind, name in FOLDERS.items() if name == resolved.name), None)
    result = resolved.parent / "result.json"
    if kind is not None and result.is_file():
        return Manifest(kind=kind, result=read_result(result), files={})
    text = files.get(MANIFEST)
    if not isinstance(text, bytes):
        return None
    manifest = read_manifest(text, str(directory))
    hashes = {name: content_hash(content) for name, content in files.items()}
    if name := next((name for name, digest in manifest.files.items() if hashes.get(name) != digest), None):
        raise HubError(
            f"{name} in {directory} is not the file that {MANIFEST} describes; restore it, or delete {MANIFEST} "
            "to publish the folder as a plain PEFT adapter."
        )
    return manifest


def _published(api: HfApi, repo_id: str, revision: str | None) -> Manifest | None:
    """What hubinit put into a repo, as its manifest says; None without one."""
    content = read_file(api, repo_id, MANIFEST, revision=revision)
    return parse_manifest(content, repo_id) if content else None
