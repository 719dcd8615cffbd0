"""Starting and stopping: what is printed, and what is not imported."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from huggingface_hub.utils import get_session

SERVE = """
import sys
from pathlib import Path
from hubinit.devhub.server import serve
serve(Path(sys.argv[1]), port=0, users={"local": "hf_made-up", "other": "hf_b"})
"""


def test_serving_at_a_terminal(tmp_path):
    """The printed lines work as they are printed, the token is not among them, and Ctrl-C ends it quietly."""
    command = [sys.executable, "-c", SERVE, str(tmp_path / "a hub")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(9)]
        exports = [line.strip() for line in lines if line.startswith("  export ")]
        client = "from huggingface_hub import HfApi; api = HfApi(); print(api.create_repo('x').repo_id, api.whoami()['name'])"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        script = "\n".join([*exports, f'exec {sys.executable} -c "{client}"'])
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
        assert done.stdout == "local/x local\n", done.stderr
        token = (tmp_path / "a hub" / "tokens" / "local").read_text()
        assert token not in "".join(lines)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
        assert (process.returncode, rest, errors) == (0, "", "")
    finally:
        process.kill()


def test_the_server_imports_no_hub_library():
    """They read the endpoint when they are imported, so whoever starts a server must be able to set it afterwards."""
    code = "import hubinit.devhub.server, sys; print([m for m in ('huggingface_hub', 'datasets', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_network_fence(hub):
    for outside in (("203.0.113.1", 80), ("example.org", 443)):
        with pytest.raises(OSError, match="must not leave loopback"):
            socket.create_connection(outside, timeout=1)
    with pytest.raises(Exception, match="must not leave loopback"):
        get_session().get("http://example.org/")
