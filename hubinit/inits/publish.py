"""One start point to the Hub, or to the outbox on its way there."""

from pathlib import Path

from huggingface_hub import HfApi

from hubinit.errors import HubError
from hubinit.hub.outbox import Delivered, deliver
from hubinit.hub.publication import base_licence, is_hub_id, of_adapter, repo_name
from hubinit.inits.plan import PlannedStart
from hubinit.records import Manifest


def repo_of(start: PlannedStart, where: str) -> str:
    """The repository of a start point: `where` itself, or one named after what is in it when that is a namespace."""
    return where if "/" in where else repo_name(start.spec, "initialised", where, start.suite)


def check_base(model: str) -> None:
    """Checks before the work that others can have the base.

    Raises:
        HubError: it is a folder of this machine.
    """
    if not is_hub_id(model):
        raise HubError(f"{model} is not a model on a Hub, so nobody could load an adapter for it; push it first.")


def publish_start(
    api: HfApi, start: PlannedStart, manifest: Manifest, folder: Path, repo_id: str, *, private: bool
) -> Delivered:
    """Publishes (or queues) the start point in a folder.

    Raises:
        HubError: the Hub refuses.
    """
    publication = of_adapter(
        manifest.result,
        folder,
        "initialised",
        repo_id,
        licence=base_licence(api, start.spec),
    )
    return deliver(api, publication, private=private)
