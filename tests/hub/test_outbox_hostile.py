"""An outbox that somebody damaged or filled: each bad entry costs only itself, in one sentence; the good ones are sent once."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubinit.errors import HubError
from hubinit.hub import manifest
from hubinit.hub import outbox as box
from hubinit.hub.manifest import content_hash
from hubinit.hub.outbox import Entry, queue, queue_rows, sync, waiting
from hubinit.hub.publication import of_adapter
from hubinit.hub.tables import CATALOGUE, LEADERBOARD
from hubinit.paths import write_atomically
from hubinit.remote import Commit
from tests.hub.builders import adapter_files, run

TOKEN = "hf_" + "A1b2C3d4" * 4


class FakeHub:
    """Notes what is sent; has no repos, so nothing was committed before."""

    endpoint, token = "http://hub.test", None

    def __init__(self) -> None:
        self.sent: list[str] = []

    def list_repo_commits(self, repo_id, repo_type):
        return []

    def send(self, api, publication, **_) -> Commit:
        self.sent.append(publication.repo_id)
        return Commit("0", "url")

    def publish(self, api, table, items, repo_id, **_) -> Commit:
        self.sent.append(repo_id)
        return Commit("0", "url")


@pytest.fixture
def fake(monkeypatch) -> FakeHub:
    hub = FakeHub()
    monkeypatch.setattr(box, "send", hub.send)
    monkeypatch.setattr(box, "publish", hub.publish)
    return hub


def adapter(outbox: Path, tmp_path: Path, repo: str) -> Path:
    """Queues an adapter."""
    return queue(outbox, of_adapter(run(), adapter_files(tmp_path / "adapter"), "trained", repo))


def trio(tmp_path: Path) -> tuple[Path, Path]:
    """An outbox with an entry between two good ones; and that entry."""
    outbox = tmp_path / "outbox"
    queue_rows(outbox, LEADERBOARD, [run(seed=1)], "alice/first")
    entry = adapter(outbox, tmp_path, "alice/victim")
    queue_rows(outbox, LEADERBOARD, [run(seed=2)], "alice/last")
    return outbox, entry


def costs_only_itself(fake: FakeHub, outbox: Path, entry: Path, said: str) -> None:
    with pytest.raises(HubError, match=said) as caught:
        list(sync(fake, outbox))
    message = str(caught.value)
    assert message.isprintable() and message.endswith("Everything else was sent.")
    assert TOKEN not in message
    assert fake.sent == ["alice/first", "alice/last"]
    assert waiting(outbox) == [entry]


def rewrite(entry: Path, **changes) -> None:
    raw = json.loads((entry / "entry.json").read_text()) | changes
    (entry / "entry.json").write_text(json.dumps(raw))


def add_file(entry: Path, name: str, content: bytes) -> None:
    """Puts a file into an entry as if it had been queued."""
    path = entry / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    raw = json.loads((entry / "entry.json").read_text())
    rewrite(entry, files=raw["files"] | {name: content_hash(content)})


def replace(path: Path, make) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


HARM = {
    "bad JSON": (lambda e: (e / "entry.json").write_text("{"), "cannot be read"),
    "deep JSON": (lambda e: (e / "entry.json").write_text("[" * 100_000), "cannot be read"),
    "oversized": (lambda e: rewrite(e, repo_id="a/" + "b" * box.MAX_ENTRY_BYTES), "cannot be read"),
    "no entry": (lambda e: (e / "entry.json").unlink(), "cannot be read"),
    "repo that climbs": (lambda e: rewrite(e, repo_id="../../api"), "cannot be read"),
    "repo without namespace": (lambda e: rewrite(e, repo_id="victim"), "cannot be read"),
    "no files": (lambda e: rewrite(e, files={}), "cannot be read"),
    "climbing file": (lambda e: rewrite(e, files={"../../../etc/hostname": "0" * 64}), "is damaged"),
    "absolute file": (lambda e: rewrite(e, files={"/etc/hostname": "0" * 64}), "is damaged"),
    "another type": (lambda e: rewrite(e, repo_type="dataset"), "holds no rows"),
    "changed": (lambda e: (e / "files" / "README.md").write_text("# changed"), "README.md of .* is damaged"),
    "added": (lambda e: (e / "files" / "extra.json").write_text("{}"), "extra.json of .* is damaged"),
    "removed": (lambda e: (e / "files" / "README.md").unlink(), "README.md of .* is damaged"),
    "all removed": (lambda e: shutil.rmtree(e / "files"), "cannot be sent: .* is not a folder"),
    "secret": (lambda e: add_file(e, "notes.json", json.dumps(TOKEN).encode()), "looks like an access token"),
    "escaped secret": (
        lambda e: add_file(e, "notes.json", f'"\\u0068{TOKEN[1:]}"'.encode()),
        "looks like an access token",
    ),
    "secret name": (lambda e: add_file(e, f"{TOKEN}.json", b"{}"), "name that looks like an access token"),
    "odd name": (lambda e: add_file(e, "a\u202eb.json", b"{}"), "bidirectional"),
    "program": (lambda e: add_file(e, "run.py", b""), "not a file that hubinit publishes"),
    "credentials": (lambda e: add_file(e, "credentials.json", b"{}"), "keep credentials"),
    "bad manifest": (lambda e: add_file(e, "hubinit.json", b"{}"), "hubinit.json of it cannot be used"),
    "linked file": (
        lambda e: replace(e / "files" / "README.md", lambda p: p.symlink_to("/etc/hostname")),
        "There is a link in it",
    ),
    "linked entry.json": (
        lambda e: replace(e / "entry.json", lambda p: p.symlink_to("/etc/hostname")),
        "There is a link in it",
    ),
    "linked folder": (lambda e: replace(e / "files", lambda p: p.symlink_to("/etc")), "There is a link in it"),
    "linked entry": (lambda e: replace(e, lambda p: p.symlink_to("/etc")), "It is not a folder"),
    "pipe as file": (lambda e: replace(e / "files" / "README.md", os.mkfifo), "is not a file but a pipe"),
    "pipe as entry.json": (lambda e: replace(e / "entry.json", os.mkfifo), "cannot be read"),
    "pipe as entry": (lambda e: replace(e, os.mkfifo), "It is not a folder"),
    "file as entry": (lambda e: replace(e, lambda p: p.write_text("x")), "It is not a folder"),
    "group may write": (lambda e: e.chmod(0o770), "Others may write to it"),
    "others may write": (lambda e: (e / "files" / "README.md").chmod(0o666), "Others may write to it"),
}


@pytest.mark.parametrize(("harm", "said"), HARM.values(), ids=HARM)
def test_a_bad_entry_costs_only_itself(fake, tmp_path, harm, said):
    outbox, entry = trio(tmp_path)
    harm(entry)
    costs_only_itself(fake, outbox, entry, said)


def test_another_users_entry_is_not_sent(fake, tmp_path, monkeypatch):
    outbox, entry = trio(tmp_path)
    if os.geteuid() == 0:
        os.chown(entry / "files" / "README.md", 12345, -1)
        costs_only_itself(fake, outbox, entry, "It belongs to another user")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(HubError, match="belongs to another user; set HUBINIT_HOME"):
        list(sync(fake, outbox))
    with pytest.raises(HubError, match="belongs to another user; set HUBINIT_HOME"):
        queue_rows(outbox, LEADERBOARD, [run()], "alice/x")


def test_an_oversized_file_is_not_sent(fake, tmp_path, monkeypatch):
    outbox, entry = trio(tmp_path)
    add_file(entry, "tokenizer.json", json.dumps("x" * (1 << 20)).encode())
    monkeypatch.setattr(manifest, "MAX_TEXT_BYTES", 1 << 20)
    costs_only_itself(fake, outbox, entry, "larger than 1 MB")


@pytest.mark.parametrize("rows", ["{}", '[{"repo": 1}]', "[", "[" * 100_000, '[{"bytes": 1e999}]'])
def test_rows_that_are_no_rows_are_not_sent(fake, tmp_path, rows):
    outbox, entry = trio(tmp_path)
    rewrite(entry, repo_type="dataset", files={})
    shutil.rmtree(entry / "files")
    add_file(entry, CATALOGUE.queued, rows.encode())
    costs_only_itself(fake, outbox, entry, r"(of another version of hubinit|not readable text)")


def test_a_number_that_fits_no_column_is_not_sent(fake, tmp_path):
    outbox, entry = trio(tmp_path)
    raw = json.loads(LEADERBOARD.items.dump_json([run()]))
    raw[0]["trainable_parameters"] = 10**30
    shutil.rmtree(entry / "files")
    rewrite(entry, repo_type="dataset", files={})
    add_file(entry, LEADERBOARD.queued, json.dumps(raw).encode())
    costs_only_itself(fake, outbox, entry, "of another version of hubinit")


def test_many_bad_entries_are_told_in_one_message(fake, tmp_path):
    outbox = tmp_path / "outbox"
    for seed in range(8):
        (queue_rows(outbox, LEADERBOARD, [run(seed=seed)], f"alice/b{seed}") / "entry.json").write_text("{")
    good = queue_rows(outbox, LEADERBOARD, [run()], "alice/good")
    with pytest.raises(HubError, match=r"3 more are damaged\. Everything else was sent") as caught:
        list(sync(fake, outbox))
    assert str(caught.value).count("cannot be read") == 5
    assert fake.sent == ["alice/good"] and good not in waiting(outbox)


def test_the_name_of_an_entry_cannot_reach_the_terminal(fake, tmp_path):
    outbox, _ = trio(tmp_path)
    (outbox / "1-\x1b[31mred\u202e\n").mkdir()
    with pytest.raises(HubError) as caught:
        list(sync(fake, outbox))
    assert str(caught.value).isprintable()


def test_what_waits_is_for_this_user_alone(tmp_path):
    outbox = tmp_path / "outbox"
    outbox.mkdir(mode=0o777)
    before = os.umask(0)
    try:
        entry = adapter(outbox, tmp_path, "alice/x")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in entry.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert outbox.stat().st_mode & 0o777 == entry.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_is_neither_queued_nor_sent(fake, tmp_path, monkeypatch):
    outbox, entry = trio(tmp_path)
    write_atomically(entry / "files" / "x.json", "{}")
    (entry / "files" / "x.json").rename(entry / "files" / ".x.json.1.2.tmp")
    costs_only_itself(fake, outbox, entry, r"\.x\.json\.1\.2\.tmp in .* is not a file that hubinit publishes")


def test_weights_that_change_while_they_are_queued_are_not_queued(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "IN_MEMORY_BYTES", 0)
    publication = of_adapter(run(), adapter_files(tmp_path / "adapter"), "trained", "alice/x")
    adapter_files(tmp_path / "adapter", scale=2.0)
    with pytest.raises(HubError, match="changed while it was being queued"):
        queue(tmp_path / "outbox", publication)
    assert [path.name for path in (tmp_path / "outbox").iterdir()] == [".lock"]


def test_a_name_that_is_no_repo_is_refused_when_it_is_queued(tmp_path):
    publication = of_adapter(run(), adapter_files(tmp_path / "adapter"), "trained", "alice/not a name")
    with pytest.raises(HubError, match="'alice/not a name' is not a valid repo name"):
        queue(tmp_path / "outbox", publication)


def test_two_syncs_at_once_send_everything_once(fake, tmp_path):
    outbox, _ = trio(tmp_path)
    together, done = threading.Barrier(4), []

    def one() -> None:
        together.wait()
        done.extend(delivered.repo_id for delivered in sync(fake, outbox))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.sent == ["alice/first", "alice/victim", "alice/last"]
    assert sorted(done) == sorted(fake.sent)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["../x.json", "/etc/hostname", "entry.json", "results.json", "hubinit.json", "\0", "a\u202e"])
FIELDS = st.sampled_from(["repo_id", "repo_type", "private", "replace", "files", "more"])


@st.composite
def entries(draw) -> bytes:
    """`entry.json` with a few fields replaced, left out or added; or any JSON; or any bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        return json.dumps(draw(JSON)).encode()
    raw = {"repo_id": "alice/fuzz", "repo_type": draw(st.sampled_from(["model", "dataset"])), "private": True}
    raw["files"] = draw(
        st.dictionaries(NAMES | st.text(max_size=9), st.text("0aF", min_size=64, max_size=64), max_size=3)
    )
    for field in draw(st.lists(FIELDS, max_size=2)):
        raw[field] = draw(JSON)
    for field in draw(st.lists(FIELDS, max_size=1)):
        raw.pop(field, None)
    return json.dumps(raw).encode(errors="surrogatepass")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=entries())
def test_no_entry_json_breaks_the_queue_or_sends_what_was_not_queued(fake, tmp_path, text):
    outbox = tmp_path / "outbox"
    shutil.rmtree(outbox, ignore_errors=True)
    fake.sent.clear()
    victim = queue_rows(outbox, LEADERBOARD, [run(seed=1)], "alice/victim")
    honest = Entry.model_validate_json((victim / "entry.json").read_bytes())
    (victim / "entry.json").write_bytes(text)
    queue_rows(outbox, LEADERBOARD, [run(seed=2)], "alice/behind")
    with pytest.raises(HubError) as caught:
        list(sync(fake, outbox))
    assert str(caught.value).isprintable()
    assert fake.sent == ["alice/behind"]
    assert waiting(outbox) == [victim] and box._read_entry(victim) != honest
