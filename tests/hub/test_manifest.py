"""What a folder may not hold to be pushed, and that what was checked is what is sent."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hubinit.errors import HubError
from hubinit.hub import manifest
from hubinit.hub.manifest import Weights, content_hash, list_files, read_manifest
from hubinit.hub.outbox import queue, sync
from hubinit.hub.publication import describe, of_adapter
from hubinit.hub.pull import pull
from hubinit.hub.send import of_folder, push, send
from hubinit.paths import write_atomically
from hubinit.records import ITEMS, Item, Manifest, items_name, write_items
from tests.hub.builders import adapter_files, run

TOKEN = "hf_" + "A1b2C3d4" * 4
ESCAPED = "\\u0068f_" + "A1b2C3d4" * 4


@pytest.fixture
def folder(tmp_path) -> Path:
    return adapter_files(tmp_path / "adapter")


def refused(folder: Path, said: str) -> str:
    with pytest.raises(HubError, match=said) as caught:
        list_files(folder)
    message = str(caught.value)
    assert message.isprintable() and message.endswith(".")
    assert TOKEN not in message
    return message


def make_special(path: Path, kind: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "device":
        try:
            os.mknod(path, 0o020600, os.makedev(1, 3))
        except OSError as error:
            pytest.skip(f"needs the right to make a device: {error}")
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["x.json", "notes.txt", "anchor/x.safetensors"])
def test_pipes_sockets_and_devices_are_refused_and_not_skipped(folder, name, kind):
    make_special(folder / name, kind)
    refused(folder, "is not a file but a pipe, a socket or a device")


@pytest.mark.parametrize("target", ["/etc", "/etc/hostname", "nowhere", ".."])
def test_links_of_every_kind_are_refused(folder, target):
    make_special(folder / "anchor", target)
    refused(folder, "anchor in .* is a link")


def test_nothing_is_opened_before_everything_is_known_to_be_a_file(folder, monkeypatch):
    os.mkfifo(folder / "zzz.json")
    monkeypatch.setattr(manifest, "open_regular", lambda path: pytest.fail(f"{path} was opened"))
    refused(folder, "pipe")


@pytest.mark.parametrize("name", ["a\u202egpj.json", "a\u2066b.json", "a\u200bb.json", "a\x1b[2Jb.json", "a\nb.json"])
def test_names_that_are_not_what_they_look_like_are_refused(folder, name):
    (folder / name).write_text("{}")
    refused(folder, "control, invisible or bidirectional characters")


def test_a_name_that_is_not_text_is_refused(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{}")
    refused(folder, r"\\udcff\.json in .* invisible")


def test_a_token_as_a_name_is_refused_and_not_repeated(folder):
    (folder / f"{TOKEN}.json").write_text("{}")
    refused(folder, "has a name that looks like an access token")


@pytest.mark.parametrize("name", ["credentials.json", "client_secret.json", "secrets.yaml", "anchor/token.json"])
def test_files_of_credentials_are_refused_whatever_they_hold(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    refused(folder, "where programs keep credentials")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", json.dumps({"a": [TOKEN]})),
        ("x.json", f'{{"a": "{ESCAPED}"}}'),
        ("x.json", f'{{"{ESCAPED}": 1}}'),
        ("x.json", f'{{"a": "{ESCAPED}", "a": "the last one counts"}}'),
        ("x.json", json.dumps({"a": f'{{"b": "{ESCAPED}"}}'})),
        ("x.yaml", f'a: "{ESCAPED}"'),
        ("README.md", f"log in with `{TOKEN}`"),
        ("LICENSE", "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_tokens_are_found_in_every_text_also_behind_escapes(folder, name, text):
    (folder / name).write_text(text)
    refused(folder, f"{name} holds what looks like an access token")


@pytest.mark.parametrize("where", ["metadata", "name", "escaped"])
def test_tokens_are_found_in_the_header_of_safetensors(folder, where):
    metadata = {"note": {"metadata": TOKEN, "escaped": ESCAPED, "name": ""}[where]}
    name = TOKEN if where == "name" else "base_model.model.q.lora_A.weight"
    save_file({name: np.zeros((2, 8), np.float32)}, folder / "adapter_model.safetensors", metadata=metadata)
    refused(folder, "holds what looks like an access token")


def test_text_has_a_limit_that_the_message_names(folder, monkeypatch):
    (folder / "tokenizer.json").write_text(json.dumps("x" * (1 << 20)))
    assert "tokenizer.json" in list_files(folder)
    monkeypatch.setattr(manifest, "MAX_TEXT_BYTES", 1 << 20)
    refused(folder, r"tokenizer\.json is larger than 1 MB")
    with pytest.raises(HubError, match=r"hubinit\.json of x cannot be used: it is larger than 1 MB"):
        read_manifest(b"x" * ((1 << 20) + 1), "x")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe{\0}\0", b"{", b"1" * 5000])
def test_json_that_cannot_be_read_ends_in_a_sentence(folder, content):
    (folder / "x.json").write_bytes(content)
    refused(folder, "not readable text")


def test_text_that_hides_its_words_between_zeros_is_refused(folder):
    (folder / "README.md").write_bytes(TOKEN.encode("utf-16-le"))
    refused(folder, "not readable text")


def test_a_configuration_that_is_no_object_ends_in_a_sentence(folder):
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(HubError, match="not the configuration of a PEFT adapter"):
        of_adapter(run(), folder, "trained", "alice/x")


def test_what_a_killed_process_was_writing_is_never_pushed(folder, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(folder / "hubinit.json", "{}")
    monkeypatch.undo()
    [left] = folder.glob(".*.tmp")
    refused(folder, f"{left.name} in .* is not a file that hubinit publishes")


def test_folders_that_cannot_be_read_are_refused_and_not_skipped(folder, monkeypatch):
    def walk(top, onerror, **_):
        onerror(PermissionError(13, "Permission denied", str(folder / "anchor")))
        return []

    monkeypatch.setattr(os, "walk", walk)
    refused(folder, r"anchor cannot be read \(Permission denied\)")


def test_the_bytes_that_were_checked_are_sent_whatever_happens_to_the_files(api, folder):
    publication = of_adapter(run(seed=91), folder, "trained", "alice/as-checked")
    for path in folder.iterdir():
        path.write_bytes(TOKEN.encode())
    send(api, publication)
    pulled = pull(api, "alice/as-checked")  # every hash is as the manifest says
    assert TOKEN not in (pulled.folder / "adapter_config.json").read_text()


def test_large_weights_that_were_changed_after_the_check_are_not_sent(api, folder, monkeypatch):
    monkeypatch.setattr(manifest, "IN_MEMORY_BYTES", 0)
    publication = of_adapter(run(seed=92), folder, "trained", "alice/changed-meanwhile")
    weights = publication.files["adapter_model.safetensors"]
    assert isinstance(weights, Weights)
    assert weights.sha256 == content_hash(weights.path)
    send(api, publication)
    adapter_files(folder, scale=9.0)
    with pytest.raises(HubError, match="changed while it was being published"):
        send(api, publication)


@pytest.mark.parametrize(
    "name", ["x\u202e.json", "credentials.json", "../x.json", "/x.json", ".git/x.json", "a/run.py"]
)
def test_a_manifest_that_lists_what_is_never_published_is_not_used(folder, name):
    text = Manifest(kind="trained", result=run(), files={name: "0" * 64}).json_text()
    with pytest.raises(HubError, match=r"lists .*, which hubinit never publishes: it ") as caught:
        read_manifest(text, "somewhere")
    assert str(caught.value).isprintable()
    (folder / "hubinit.json").write_text(text)
    with pytest.raises(HubError, match="never publishes"):
        of_folder(None, folder, "alice/x")


def test_a_licence_and_git_attributes_survive_push_and_pull(api, folder, tmp_path):
    (folder / "LICENSE").write_text("yours\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    describe(run(seed=93), folder, "trained")
    push(api, folder, "alice/licence")
    assert (pull(api, "alice/licence", out=tmp_path / "out").folder / "LICENSE").read_text() == "yours\n"


def test_private_paths_and_real_results_are_no_tokens(tmp_path):
    folder = adapter_files(tmp_path / "run" / "adapter", base="/home/someone/models/llama-3")
    publication = of_adapter(run(command="hubinit bench --out /home/someone/hf_runs"), folder, "trained", "alice/x")
    assert {"README.md", "hubinit.json"} <= publication.files.keys()


def with_items(folder: Path, output: str):
    """A result whose scores name item records beside the adapter's folder, as a run leaves them."""
    result = run(seed=94)
    [score] = result.scores
    digest = write_items(folder.parent / ITEMS / items_name(score.eval), [Item(id="1", outputs=(output,))])
    return result.model_copy(update={"scores": (score.model_copy(update={"items": digest}),)})


def test_item_records_may_hold_what_a_model_made_up_but_not_a_token_of_the_user(folder, monkeypatch):
    of_adapter(with_items(folder, TOKEN), folder, "trained", "alice/x")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(HubError, match=r"items/.*\.parquet holds an access token of yours"):
        of_adapter(with_items(folder, f"it is {TOKEN}"), folder, "trained", "alice/x")


def test_item_records_wait_in_the_outbox_and_are_sent(api, folder, tmp_path):
    publication = of_adapter(with_items(folder, "B"), folder, "trained", "alice/items-later")
    [name] = [name for name in publication.files if name.endswith(".parquet")]
    queue(tmp_path / "outbox", publication)
    assert len(list(sync(api, tmp_path / "outbox"))) == 1
    assert Path(api.hf_hub_download("alice/items-later", name)).read_bytes() == publication.files[name]


@pytest.mark.parametrize("name", ["rows.parquet", "items/rows.parquet"])
def test_other_parquet_files_are_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"PAR1 not")
    refused(folder, "not a parquet file that can be read" if "/" in name else "not a file that hubinit publishes")


def test_rows_that_unpack_to_too_much_are_refused_before_they_are_unpacked(folder, monkeypatch):
    write_items(folder / "items" / "x.parquet", [Item(id="1", outputs=("x" * 10_000,))])
    assert "items/x.parquet" in list_files(folder)
    monkeypatch.setattr(manifest, "MAX_ROWS_BYTES", 1000)
    refused(folder, r"items/x\.parquet unpacks to more than")
