"""One start point to the Hub, or to the outbox on its way there."""

from pathlib import Path

from huggingface_hub import HfApi

from hubinit.hub.outbox import Delivered, deliver
from hubinit.hub.publication import base_licence, of_adapter, repo_name
from hubinit.inits.plan import PlannedStart
from hubinit.records import Manifest


def repo_of(start: PlannedStart, where: str) -> str:
    """The repository of a start point: `where` itself, or one named after what is in it when that is a namespace."""
    return where if "/" in where else repo_name(start.spec, "initialised", where, start.suite)


def publish_start(
    api: HfApi, start: PlannedStart, manifest: Manifest, folder: Path, repo_id: str, *, private: bool, replace: bool
) -> Delivered:
    """Publishes (or queues) the start point in a folder.

    Args:
        api: client with a token.
        start: what it is.
        manifest: of the folder.
        folder: where it lies.
        repo_id: where it goes.
        private: whether a new repo is private.
        replace: whether another start point may be replaced that the repo holds.

    Raises:
        HubError: the Hub refuses, or the repo holds another start point.
    """
    publication = of_adapter(
        manifest.result,
        folder,
        "initialised",
        repo_id,
        licence=base_licence(api, start.spec),
    )
    return deliver(api, publication, private=private, replace=replace)
