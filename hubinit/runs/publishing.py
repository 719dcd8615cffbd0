"""Publishing the results of a benchmark as they come."""

from collections.abc import Callable

from huggingface_hub import HfApi

from hubinit.errors import HubinitError, first_line
from hubinit.hub.outbox import Delivered, deliver, deliver_rows
from hubinit.hub.publication import of_run
from hubinit.hub.tables import LEADERBOARD
from hubinit.records import ResultStore, RunResult


class Publisher:
    """Publishes each result of a benchmark as it comes; a failure is kept for the end and loses nothing that is on disk."""

    def __init__(self, store: ResultStore, namespace: str, groups: dict[str, str], *, private: bool) -> None:
        self.api = HfApi()
        self.store, self.namespace, self.groups, self.private = store, namespace, groups, private
        self.published: list[str] = []
        self.failures: list[str] = []
        self.notes: list[str] = []  # what the publisher should know, though nothing failed
        self._done: set[str] = set()

    def __call__(self, result: RunResult) -> None:
        """Publishes the adapters of one finished run."""
        if result.status not in {"ok", "partial"} or result.spec.method.name == "none":
            return
        self._done.add(result.key)

        def publish() -> list[Delivered]:
            publications = of_run(
                self.api,
                result,
                self.store.folder(result.key),
                self.namespace,
                suite=self.groups.get(result.key),
            )
            return [deliver(self.api, publication, private=self.private) for publication in publications]

        self._attempt(publish)

    def finish(self, results: list[RunResult], cached: set[str]) -> None:
        """Publishes what was finished before this command, then the leaderboard data set."""
        for result in results:
            if result.key in cached and result.key not in self._done:
                self(result)
        name = f"{self.namespace}/hubinit-leaderboard"
        self._attempt(lambda: [deliver_rows(self.api, LEADERBOARD, results, name, private=self.private)])

    def _attempt(self, publish: Callable[[], list[Delivered]]) -> None:
        try:
            for done in publish():
                self.published.append(done.url or f"{done.repo_id} (queued; `hubinit sync` sends it)")
                self.notes += done.notes
        except (HubinitError, OSError) as error:  # also a full disk, or a file that went away
            reason = first_line(error)
            self.failures.append(
                f"Not published: {reason}. The result is on disk; the same command publishes it later."
            )
