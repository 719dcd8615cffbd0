"""Publishing now, or, where the Hub must not be asked (`--hub offline`), into the outbox for `hubinit sync`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode

from hubinit.errors import HubinitError, first_line
from hubinit.hub import outbox
from hubinit.hub.catalogue import CatalogueRow, publish_catalogue
from hubinit.hub.publication import Publication, of_run
from hubinit.hub.publish import PublishedRepo, publish_leaderboard, send
from hubinit.paths import home
from hubinit.records import ResultStore, RunResult
from hubinit.remote import RepoType


@dataclass(frozen=True)
class Delivered:
    """Where a publication went: to its repo, or to the outbox on its way there. `changed`: the repo has a new commit."""

    repo_id: str
    repo_type: RepoType
    url: str | None = None
    queued: Path | None = None
    changed: bool = False

    def __str__(self) -> str:
        if self.queued is not None:
            return f"Queued for {self.repo_id} (`hubinit sync` sends it)"
        return f"Published: {self.url}" + ("" if self.changed else " (was there already)")


def deliver(api: HfApi, publication: Publication, *, private: bool = True) -> Delivered:
    """Publishes or queues an adapter repo.

    Raises:
        HubError: the Hub refuses.
    """
    if is_offline_mode():
        path = outbox.queue(outbox_folder(), publication, private=private)
        return Delivered(publication.repo_id, "model", queued=path)
    return arrived(api, send(api, publication, private=private))


def deliver_leaderboard(api: HfApi, results: Sequence[RunResult], repo_id: str, *, private: bool = True) -> Delivered:
    """Publishes or queues the rows of a leaderboard data set.

    Raises:
        HubError: the Hub refuses.
    """
    if is_offline_mode():
        path = outbox.queue_leaderboard(outbox_folder(), results, repo_id, private=private)
        return Delivered(repo_id, "dataset", queued=path)
    return arrived(api, publish_leaderboard(api, results, repo_id, private=private))


def deliver_catalogue(api: HfApi, rows: Sequence[CatalogueRow], repo_id: str, *, private: bool = True) -> Delivered:
    """Publishes or queues rows of a catalogue.

    Raises:
        HubError: the Hub refuses.
    """
    if is_offline_mode():
        path = outbox.queue_catalogue(outbox_folder(), rows, repo_id, private=private)
        return Delivered(repo_id, "dataset", queued=path)
    return arrived(api, publish_catalogue(api, rows, repo_id, private=private))


def arrived(api: HfApi, repo: PublishedRepo) -> Delivered:
    """A repo that is on the Hub."""
    kind = "" if repo.repo_type == "model" else f"{repo.repo_type}s/"
    url = f"{api.endpoint}/{kind}{repo.repo_id}"
    if repo.commit is not None and repo.commit.pull_request:
        url = repo.commit.pull_request
    return Delivered(repo.repo_id, repo.repo_type, url=url, changed=repo.commit is not None)


def outbox_folder() -> Path:
    """Where publications wait."""
    return home() / "outbox"


class Publisher:
    """Publishes each result of a benchmark as it comes; a failure is kept for the end and loses nothing that is on disk."""

    def __init__(self, store: ResultStore, namespace: str, groups: dict[str, str], *, private: bool) -> None:
        self.api = HfApi()
        self.store, self.namespace, self.groups, self.private = store, namespace, groups, private
        self.published: list[str] = []
        self.failures: list[str] = []
        self._done: set[str] = set()

    def __call__(self, result: RunResult) -> None:
        """Publishes the adapters of one finished run."""
        from hubinit.tasks import TASKS

        if result.status not in {"ok", "partial"} or result.spec.method.name == "none":
            return
        self._done.add(result.key)

        def publish() -> list[Delivered]:
            publications = of_run(
                self.api,
                result,
                self.store.folder(result.key),
                self.namespace,
                datasets={name: task.dataset for name, task in TASKS.items()},
                suite=self.groups.get(result.key),
            )
            return [deliver(self.api, publication, private=self.private) for publication in publications]

        self._attempt(publish)

    def finish(self, results: list[RunResult], cached: list[str]) -> None:
        """Publishes what was finished before this command, then the leaderboard data set."""
        for result in results:
            if result.key in cached and result.key not in self._done:
                self(result)
        name = f"{self.namespace}/hubinit-leaderboard"
        self._attempt(lambda: [deliver_leaderboard(self.api, results, name, private=self.private)])

    def _attempt(self, publish: Callable[[], list[Delivered]]) -> None:
        try:
            self.published += [done.url or f"{done.repo_id} (queued; `hubinit sync` sends it)" for done in publish()]
        except (HubinitError, OSError) as error:  # also a full disk, or a file that went away
            reason = first_line(error)
            self.failures.append(
                f"Not published: {reason}. The result is on disk; the same command publishes it later."
            )
