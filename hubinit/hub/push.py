"""`hubinit push DIR REPO`: publishing one folder by hand."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi

from hubinit.adapters.mark import check_anchor_kept
from hubinit.errors import HubError
from hubinit.hub.manifest import FILE_NAME, Manifest, checked_files, read_manifest
from hubinit.hub.publication import FOLDERS, Kind, Publication, base_licence, content_hash, of_adapter
from hubinit.hub.publish import PublishedRepo, send
from hubinit.records import read_result


def push(
    api: HfApi,
    directory: Path,
    repo_id: str,
    *,
    create_pr: bool = False,
    public: bool = False,
    datasets: Mapping[str, str] | None = None,
) -> PublishedRepo:
    """Publishes an adapter folder by one commit; does nothing when the repo has it already.

    Args:
        api: client with a token.
        directory: `init/` or `adapter/` of a run, a folder pulled or written by `hubinit init` (with `hubinit.json`), or any
            PEFT adapter. The card is hubinit's where the provenance is known, else the folder's own README.md.
        repo_id: `namespace/name`.
        create_pr: propose it as a pull request to an existing repo, which needs no right to write there.
        public: new repos are private unless this is set.
        datasets: Hub dataset id of each task, for the card.

    Raises:
        HubError: a file that must not be published, files that do not fit their `hubinit.json`, or the Hub refuses.
    """
    return send(api, of_folder(api, directory, repo_id, datasets), private=not public, create_pr=create_pr)


def of_folder(api: HfApi, directory: Path, repo_id: str, datasets: Mapping[str, str] | None = None) -> Publication:
    """What `push` would publish.

    Raises:
        HubError: a file that must not be published, or files that do not fit their `hubinit.json`.
        HubinitError: an adapter that lost its anchor.
    """
    if repo_id.count("/") != 1:
        raise HubError(f"'{repo_id}' is not a full repo name; give it as namespace/name.")
    files = checked_files(directory)
    if "result.json" in files:
        raise HubError(f"{directory} is the folder of a run; push its {' or '.join(FOLDERS.values())} folder.")
    check_anchor_kept(directory)
    manifest = _manifest(directory, files)
    if manifest is None:
        if "adapter_config.json" not in files:
            raise HubError(f"{directory} holds no adapter (adapter_config.json); give the folder of a PEFT adapter.")
        return Publication(repo_id, dict(files))
    licence = base_licence(api, manifest.result.spec)
    return of_adapter(manifest.result, directory, manifest.kind, repo_id, licence=licence, datasets=datasets)


def _manifest(directory: Path, files: Mapping[str, Path]) -> Manifest | None:
    """The provenance of a folder: its `hubinit.json`, or the result of the run it belongs to."""
    if FILE_NAME in files:
        manifest = read_manifest(files[FILE_NAME].read_bytes(), str(directory))
        for name, digest in manifest.files.items():
            if name not in files or content_hash(files[name]) != digest:
                raise HubError(
                    f"{name} in {directory} is not the file that {FILE_NAME} describes; restore it, or delete {FILE_NAME} "
                    "to publish the folder as a plain PEFT adapter."
                )
        return manifest
    directory = directory.resolve()
    kind: Kind | None = next((kind for kind, name in FOLDERS.items() if name == directory.name), None)
    result = directory.parent / "result.json"
    if kind is None or not result.is_file():
        return None
    return Manifest(kind=kind, result=read_result(result), files={})
