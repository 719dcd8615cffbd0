"""Whatever a client sends, by every route of the application, gets a 2xx to 4xx, within a second and 100 MB."""

import http.client
import re
import subprocess
import sys
import time
from types import SimpleNamespace
from urllib.parse import urlencode

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubinit.devhub import app, cards, lfs
from hubinit.devhub.evals import eval_results
from hubinit.devhub.store import Store
from tests.devhub.routes import EXAMPLES, OID, REPO, body_routes
from tests.odd import JSON, YAMLS, mutated, with_each_part_odd, written

SERVER = """
import sys
from pathlib import Path
from hubinit.devhub.server import make_app, serve
root, users = Path(sys.argv[1]), {"alice": "hf_alice", "bob": "hf_bob"}
store = make_app(root, users).store
store.create_repo("model", "alice/fuzz")
store.create_repo("model", "alice/fuzz-old")
serve(root, port=0, users=users)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Hub in a process of its own, so that its time and memory are its own."""
    root = tmp_path_factory.mktemp("fuzzed")
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(root)], stdout=subprocess.PIPE, text=True)
    address = re.search(r"http://(\S+)", process.stdout.readline())[1]
    hub = SimpleNamespace(address=address, secret=lfs.server_secret(root), process=psutil.Process(process.pid))
    opening = b'{"title": "first", "pullRequest": true}'
    assert send(hub, "POST", f"/api/models/{REPO}/discussions", opening).status == 200
    yield hub
    process.kill()
    process.communicate()


def send(hub, method, path, body, kind="application/json"):
    """Sends one request; the answer's status, and what it cost the server."""
    headers = {"Authorization": "Bearer hf_alice", "Content-Type": kind}
    connection = http.client.HTTPConnection(hub.address, timeout=20)
    before, memory = sum(hub.process.cpu_times()[:2]), hub.process.memory_info().rss
    connection.request(method, signed(hub, path), body, headers)
    status = connection.getresponse().status
    connection.close()
    after, grown = sum(hub.process.cpu_times()[:2]), hub.process.memory_info().rss - memory
    return SimpleNamespace(status=status, seconds=after - before, grown=grown)


def signed(hub, path):
    """The path; with a valid signature where one is needed to get as far as the body."""
    action = path.removeprefix("/lfs/")
    if action == path:
        return path
    fields = {"action": action, "uid": "0", "oid": OID, "size": "4", "folder": "parts-0"}
    fields["expires"] = str(int(time.time()) + 60)
    return f"{path}?{urlencode(fields | {'signature': lfs._signature(hub.secret, fields)})}"


def check(answer):
    assert 200 <= answer.status < 500
    assert answer.seconds < 1, "the server's own time, whatever else runs on this machine"
    assert answer.grown < 100e6


def test_every_route_is_tried_with_what_it_accepts():
    """A route without an example is fuzzed all the same, but not as well."""
    tables = app.REPO_ROUTES | app.ROOT_ROUTES | lfs.ROOT_ROUTES
    without = {route for route in tables if route[0] != "GET"} - EXAMPLES.keys()
    assert without == {("DELETE", "branch"), ("DELETE", "tag")}, "they take no body"


@pytest.mark.parametrize(("method", "path", "valid"), list(body_routes()), ids=lambda value: str(value)[:60])
def test_no_body_makes_a_route_fail(server, method, path, valid):
    lines = valid if isinstance(valid, list) else [valid]
    changed = mutated(lines).map(lambda value: value if isinstance(value, list) else [value])
    texts = changed.map(lambda values: "\n".join(map(written, values)).encode())
    bodies = (
        texts | texts | texts | JSON.map(written).map(str.encode) | st.binary(max_size=40) | st.text().map(str.encode)
    )

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(bodies, st.sampled_from(["application/json", "application/json", "application/x-www-form-urlencoded"]))
    def fuzz(body, kind):
        check(send(server, method, path, body, kind))

    for value in with_each_part_odd(lines):
        check(
            send(server, method, path, "\n".join(map(written, value if isinstance(value, list) else [value])).encode())
        )
    fuzz()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = Store(tmp_path_factory.mktemp("store"))
    made.create_repo("model", REPO)
    return made


ENTRY = "- dataset: {id: a/b, task_id: t}\n  value: 1.5\n  source: {url: x}\n"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(YAMLS, st.sampled_from(["", "tags: ", "tags:\n- ", "base_model: ", "model-index: ", "library_name: "]))
def test_no_card_and_no_score_makes_a_repo_unreadable(store, text, name):
    files = {
        "README.md": f"---\n{name}{text}\n---\n",
        ".eval_results/a.yaml": text,
        ".eval_results/b.yaml": ENTRY + text,
    }
    contents = {path: content.encode(errors="surrogatepass") for path, content in files.items()}
    sha = store.commit("model", REPO, contents, message="x", author="alice")
    answer = [cards.metadata(store, "model", sha).card, eval_results(store, sha), cards.problems(files["README.md"])]
    app.JSONResponse(answer)


CONFIG = {"model_type": "llama", "peft_type": "LORA", "base_model_name_or_path": "a/b", "task_type": "CAUSAL_LM"}


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(mutated(CONFIG).map(written) | st.text(max_size=30), st.sampled_from(["config.json", "adapter_config.json"]))
def test_no_configuration_makes_a_repo_unreadable(store, text, name):
    sha = store.commit("model", REPO, {name: text.encode()}, message="x", author="alice")
    found = cards.metadata(store, "model", sha)
    app.JSONResponse([found.config, found.tags, found.library, found.pipeline])
