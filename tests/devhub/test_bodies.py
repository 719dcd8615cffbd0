"""What clients send: refused with a 4xx, in time and in bounds, whatever it is."""

import json
import struct
import time

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.utils import build_hf_headers, get_session
from hypothesis import given
from hypothesis import strategies as st

from hubinit.devhub.bodies import parse_json
from hubinit.devhub.calls import Settings
from hubinit.devhub.server import running
from tests.devhub.sockets import half_sent, status_of, wait_for_end

REPO = "alice/bodies"
JSON = build_hf_headers(token="hf_alice") | {"content-type": "application/json"}
OID = "a" * 64


@pytest.fixture(autouse=True)
def repo(api):
    api.create_repo(REPO, exist_ok=True)


def post(hub, path, content, headers=JSON):
    return get_session().post(f"{hub.url}{path}", content=content, headers=headers)


def test_transfers_that_are_not_a_list(hub):
    body = {"operation": "upload", "transfers": 5, "objects": [{"oid": OID, "size": 1}]}
    assert post(hub, f"/{REPO}.git/info/lfs/objects/batch", json.dumps(body)).status_code == 400


ODD = ["NaN", "Infinity", "-Infinity", "1e999", r'"\ud800"', r'"\uDC00x"', "[" * 100_000, '"\xff"']


@pytest.mark.parametrize("odd", ODD)
def test_json_that_cannot_be_written_again_is_a_bad_request(hub, odd):
    raw = odd.encode("latin-1")
    batch = b'{"operation": "upload", "objects": [{"oid": %b, "size": %b}]}' % (raw, raw)
    create = b'{"name": "odd", "type": %b}' % raw
    commit = b'{"key": "header", "value": {"summary": %b}}' % raw
    assert post(hub, f"/{REPO}.git/info/lfs/objects/batch", batch).status_code == 400
    assert post(hub, "/api/repos/create", create).status_code == 400
    assert post(hub, f"/api/models/{REPO}/commit/main", commit).status_code == 400
    assert post(hub, f"/api/models/{REPO}/discussions", b'{"title": %b}' % raw).status_code == 400


def test_whole_surrogate_pairs_are_text():
    assert parse_json(rb'"\ud83d\ude00"') == "😀"
    assert parse_json(rb'"a \\ud800"') == r"a \ud800"


@given(st.text() | st.binary())
def test_what_is_parsed_can_be_answered(content):
    try:
        parsed = parse_json(content)
    except ValueError:
        return
    json.dumps(parsed, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "\ud800", "shape": [1], "data_offsets": [0, 0]}},
        {"w": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [10**4000] * 9, "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [float("inf"), -1], "data_offsets": [0, 0]}},
    ],
)
def test_files_that_say_odd_things_leave_their_repo_readable(api, header):
    name = "alice/odd-files"
    api.create_repo(name, exist_ok=True)
    packed = json.dumps(header).encode()
    config = rb'{"peft_type": "LORA", "base_model_name_or_path": "\ud800", "task_type": 1e999}'
    files = {"model.safetensors": struct.pack("<Q", len(packed)) + packed, "adapter_config.json": config}
    api.create_commit(name, [CommitOperationAdd(*file) for file in files.items()], commit_message="odd")
    info = api.model_info(name)
    assert info.library_name == "peft" and info.safetensors is None
    assert name in [model.id for model in api.list_models(author="alice")]


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "text/plain;application/json", FORM, "multipart/form-data; boundary=x"]
)
def test_a_body_that_a_web_page_can_send_is_refused(hub, kind):
    headers = build_hf_headers(token="hf_alice") | ({} if kind is None else {"content-type": kind})
    body = b'{"name": "from-a-page"}'
    assert post(hub, "/api/repos/create", body, headers).status_code == 415
    assert post(hub, "/api/validate-yaml", body, headers).status_code == 415
    assert post(hub, "/api/repos/create", iter([body]), headers).status_code == 415


@pytest.mark.parametrize("settings", [Settings(idle_seconds=0.3), Settings(body_seconds=0.3)], ids=["idle", "whole"])
def test_a_body_that_does_not_come_is_given_up(tmp_path, settings):
    with running(tmp_path, users={"carol": "hf_carol"}, settings=settings) as small:
        start = time.monotonic()
        open_connections = [half_sent(small, "/api/repos/create", 1000, token="hf_carol") for _ in range(50)]
        for connection in open_connections:
            assert status_of(connection) == 408
            wait_for_end(connection)
        assert time.monotonic() - start < 5


def test_a_long_body_of_the_anonymous_is_refused_before_it_is_sent(hub):
    with half_sent(hub, "/api/validate-yaml", 200 << 20) as connection:
        assert status_of(connection) == 413
