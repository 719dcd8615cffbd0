"""Clients that do not finish what they began: closed in bounded time, in bounded number, and in nobody's way."""

import http.client
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, get_session

from hubinit.devhub.calls import Settings
from hubinit.devhub.server import running
from tests.devhub.routes import body_routes
from tests.devhub.sockets import connect, half_sent, status_of, wait_for_end

OPEN_TO_ALL = ("/validate-yaml", "/paths-info/main")
OPEN_TO_READERS = ("/preupload/main", "/discussions", "/duplicate", "/objects/batch", "/repos/", "/ask-access")
USERS = {"alice": "hf_alice", "bob": "hf_bob"}
IMPATIENT = Settings(idle_seconds=0.5, unread_seconds=0.5)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with running(tmp_path_factory.mktemp("small"), users=USERS, settings=IMPATIENT) as server:
        server.store.create_repo("model", "alice/fuzz")
        yield server


@pytest.mark.parametrize(("method", "path"), sorted({(method, path) for method, path, _ in body_routes()}))
def test_who_may_not_is_told_before_the_body_is_sent(hub, api, method, path):
    api.create_repo("alice/fuzz", exist_ok=True)
    if not path.endswith(OPEN_TO_ALL):
        with half_sent(hub, path, 200 << 20, method=method) as connection:
            assert status_of(connection) in (401, 403)
    if not any(part in path for part in (*OPEN_TO_ALL, *OPEN_TO_READERS)):
        with half_sent(hub, path, 200 << 20, token="hf_bob", method=method) as connection:
            assert status_of(connection) in (403, 404)


def test_a_refused_upload_is_refused_to_a_client_that_sends_it_all(hub, api):
    """An answer before the end of the body must not become a broken connection for those who read it afterwards."""
    api.create_repo("alice/fuzz", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="no write access"):
        HfApi(token="hf_bob").create_branch("alice/fuzz", branch="x" * 100)
    response = _post(hub, "/api/models/alice/fuzz/commit/main", b" " * (20 << 20), "hf_bob")
    assert response.status_code == 403
    assert _post(hub, "/api/validate-yaml", b" " * (20 << 20), None).status_code == 413


def _post(hub, path, content, token):
    headers = build_hf_headers(token=token or False) | {"content-type": "application/json"}
    return get_session().post(f"{hub.url}{path}", content=content, headers=headers)


HALVES = {
    "nothing": b"",
    "half a head": b"GET /api/models HTTP/1.1\r\nHost: 127",
    "a drip after an answer": b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nG",
}


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_half_a_head_is_given_up(small, sent):
    start = time.monotonic()
    connections = [connect(small) for _ in range(50)]
    for connection in connections:
        connection.sendall(sent)
    for connection in connections:
        wait_for_end(connection)
    assert time.monotonic() - start < 5


def test_dripping_does_not_buy_time(small):
    def drip(connection):
        for byte in HALVES["half a head"] * 2:
            connection.send(bytes([byte]))
            time.sleep(0.1)

    with connect(small) as connection, pytest.raises(OSError):
        drip(connection)


def test_the_rest_of_a_refused_body_is_not_awaited(small):
    with half_sent(small, "/api/models/alice/fuzz/commit/main", 1000) as connection:
        assert status_of(connection) == 401
        wait_for_end(connection)


def test_an_answer_that_nobody_reads_is_given_up(small):
    small.store.commit("model", "alice/fuzz", {"large.bin": bytes(32 << 20)}, message="x", author="alice")
    process = psutil.Process()
    with connect(small) as connection:
        connection.sendall(b"GET /alice/fuzz/resolve/main/large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        peer, end = connection.getsockname(), time.monotonic() + 5

        def served():
            return any(
                other.raddr == peer and other.status == "ESTABLISHED" for other in process.net_connections("tcp")
            )

        time.sleep(0.2)
        assert served()
        while served():
            assert time.monotonic() < end
            time.sleep(0.05)


CROWD = {
    "heads": b"P",
    "bodies": b"POST /api/validate-yaml HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nP",
    "kept alive": b"GET /api/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@pytest.mark.parametrize("half", CROWD.values(), ids=CROWD)
def test_a_thousand_half_sent_requests_lock_nobody_out(tmp_path, half):
    with running(tmp_path, users=USERS, settings=Settings(max_connections=100)) as server:
        healthy = HfApi(endpoint=server.url, token="hf_alice")
        healthy.create_repo("alice/x")
        connections = []
        for number in range(300):  # three times what is held; a thousand would need a thousand descriptors here too
            connections.append(connect(server))
            connections[-1].sendall(half)
            if number % 50 == 49:
                assert healthy.model_info("alice/x").id == "alice/x"
        if half != CROWD["kept alive"]:  # of those, the newer ones that had not been answered went first
            for connection in connections[:150]:
                wait_for_end(connection)  # long before their time
        for connection in connections:
            connection.close()


SERVER = """
import sys
from pathlib import Path
from hubinit.devhub.server import make_app, serve
root, users = Path(sys.argv[1]), {"alice": "hf_alice", "bob": "hf_bob"}
make_app(root, users).store.create_repo("model", "alice/fuzz")
serve(root, port=0, users=users)
"""
SENDERS = [  # path, token, whether the length is announced
    ("/api/models/alice/fuzz/commit/main", None, True),
    ("/api/models/alice/fuzz/commit/main", "hf_bob", False),
    ("/api/validate-yaml", None, True),
    ("/api/validate-yaml", None, False),
]


def test_large_bodies_of_those_who_may_not_do_not_fill_the_memory(tmp_path):
    """Four clients send 200 MB each at once."""
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        hub = SimpleNamespace(url=re.search(r"http://\S+", process.stdout.readline())[0])
        assert _post(hub, "/api/validate-yaml", b"{}", None).status_code == 200
        measured = psutil.Process(process.pid)
        before = peak = measured.memory_info().rss
        with ThreadPoolExecutor(len(SENDERS)) as pool:
            sent = [pool.submit(_send, hub, *sender, 200 << 20) for sender in SENDERS]
            while not all(future.done() for future in sent):
                peak = max(peak, measured.memory_info().rss)
                time.sleep(0.005)
        assert [future.result() for future in sent] == [401, 403, 413, 413]
        assert peak - before < 100e6
    finally:
        process.kill()
        process.communicate()


def _send(hub, path, token, announced, size):
    """Sends a body of this many zeros and returns the status."""
    kinds = {"Content-Length": str(size)} if announced else {"Transfer-Encoding": "chunked"}
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    pieces = (bytes(1 << 20) for _ in range(size >> 20))
    connection.request("POST", path, pieces, headers | kinds, encode_chunked=not announced)
    return connection.getresponse().status
