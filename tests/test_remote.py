"""What is retried, what is not, and what the user is told; against a fake client that fails as told."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hubinit import remote as client
from hubinit.errors import HubError
from hubinit.remote import Commit, call, commit, is_transient, redact

TRANSPORT = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")


def refusal(status: int, message: str = "refused", kind: type = HfHubHTTPError, **headers: str) -> HfHubHTTPError:
    response = SimpleNamespace(
        status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, request=None
    )
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.response, error.server_message, error._request = response, message, None
    error.request_id, error.args = None, (message,)
    return error


class FakeApi:
    """A repo whose commits are dicts of files; `plan` says what befalls each create_commit, in order."""

    endpoint = "http://hub.test"
    token = "hf_alice"

    def __init__(self, plan: list[object] = ()) -> None:
        self.history: list[dict[str, bytes]] = [{}]
        self.plan: Iterator[object] = iter(plan)
        self.tries = 0

    def repo_info(self, repo_id: str, repo_type: str) -> SimpleNamespace:
        return SimpleNamespace(sha=f"{len(self.history):040d}")

    def create_commit(self, repo_id, operations, *, parent_commit, **_) -> SimpleNamespace:
        self.tries += 1
        event = next(self.plan, None)
        if event == "lose the answer":
            self._write(operations)
            raise ConnectionResetError("peer gone")
        if isinstance(event, dict):  # somebody else commits first
            self.history.append(self.history[-1] | event)
        elif event is not None:
            raise event
        if parent_commit != f"{len(self.history):040d}":
            raise refusal(412, "stale parent")
        self._write(operations)
        oid = f"{len(self.history):040d}"
        return SimpleNamespace(oid=oid, commit_url=f"{self.endpoint}/commit/{oid}", pr_url=None)

    def _write(self, operations: list[CommitOperationAdd]) -> None:
        new = self.history[-1] | {op.path_in_repo: op.path_or_fileobj for op in operations}
        if new != self.history[-1]:
            self.history.append(new)


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", seconds.append)
    return seconds


def add(**files: str):
    return lambda parent: [CommitOperationAdd(name, text.encode()) for name, text in files.items()]


def test_transient_failures_are_retried_and_a_lost_answer_doubles_nothing(slept):
    api = FakeApi([refusal(503), ConnectionResetError(), TRANSPORT("broken"), "lose the answer"])
    done = commit(api, "a/b", "model", add(x="1"), message="m")
    assert isinstance(done, Commit)
    assert len(api.history) == 2
    assert api.tries == 5


def test_the_same_content_is_no_commit(slept):
    api = FakeApi()
    commit(api, "a/b", "model", add(x="1"), message="m")
    assert commit(api, "a/b", "model", add(x="1"), message="m") is None
    assert commit(api, "a/b", "model", lambda parent: [], message="m") is None
    assert len(api.history) == 2


def test_operations_are_rebuilt_on_the_commits_of_others(slept):
    api = FakeApi([{"x": b"1"}, {"x": b"12"}])

    def append(parent):
        return [CommitOperationAdd("x", api.history[-1].get("x", b"") + b"+")]

    commit(api, "a/b", "model", append, message="m")
    assert api.history[-1] == {"x": b"12+"}
    assert max(slept) <= client.MAX_WAIT


def test_many_conflicts_do_not_count_as_failures(slept):
    api = FakeApi([{"y": str(i).encode()} for i in range(40)])
    assert commit(api, "a/b", "model", add(x="1"), message="m") is not None


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(slept, form):
    asked = "7" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    commit(FakeApi([refusal(429, Retry_After=asked)]), "a/b", "model", add(x="1"), message="m")
    assert 5 <= slept[0] <= 8


def test_an_absurd_retry_after_is_capped(slept):
    commit(FakeApi([refusal(429, Retry_After="86400")]), "a/b", "model", add(x="1"), message="m")
    assert slept == [client.MAX_WAIT]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusal(403), "write access"),
        (refusal(401), "token is missing or not valid"),
        (refusal(404, kind=RepositoryNotFoundError), "may not see it"),
        (refusal(413, "too large\nsecond line"), r"answered 413 \(too large\)"),
    ],
)
def test_a_refusal_is_final_and_one_sentence(slept, error, said):
    api = FakeApi([error, error])
    with pytest.raises(HubError, match=said) as caught:
        commit(api, "a/b", "model", add(x="1"), message="m")
    assert api.tries == 1
    assert "\n" not in str(caught.value)


def test_a_hub_that_stays_away_is_given_up_after_a_few_tries(slept):
    api = FakeApi([ConnectionResetError()] * 99)
    with pytest.raises(HubError, match=r"http://hub\.test could not be reached"):
        commit(api, "a/b", "model", add(x="1"), message="m")
    assert api.tries == client.TRIES


def test_no_message_shows_a_token(slept, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    real = "hf_" + "Ab1" * 12
    with pytest.raises(HubError) as caught:
        call("do it", lambda: (_ for _ in ()).throw(refusal(400, f"bad hf_alice {real} hf_environment")), api=FakeApi())
    assert not {"hf_alice", real, "hf_environment"} & set(str(caught.value).replace(")", " ").split())
    assert "[token] [token] [token]" in str(caught.value)
    assert redact("nothing to hide") == "nothing to hide"


def test_what_counts_as_transient():
    assert is_transient(TRANSPORT("x"))
    assert is_transient(refusal(408))
    assert is_transient(refusal(502))
    assert not is_transient(refusal(404))
    assert not is_transient(FileNotFoundError())
    assert not is_transient(None)
