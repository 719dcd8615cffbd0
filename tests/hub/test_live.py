"""One round trip on the real Hub, in a process of its own outside the fence; only with HUBINIT_LIVE=1 and a token."""

import os
import subprocess
import sys
from pathlib import Path

ROUND_TRIP = """
import secrets, sys
from pathlib import Path
from tests.hub.builders import run, run_folder
from huggingface_hub import HfApi
from hubinit.hub.publication import describe
from hubinit.hub.pull import pull
from hubinit.hub.send import push

api, root = HfApi(), Path(sys.argv[1])
repo = f"{api.whoami()['name']}/hubinit-smoke-test-{secrets.token_hex(4)}"
folder = run_folder(root / "run") / "init"
describe(run(model="hf-internal-testing/tiny-random-LlamaForCausalLM", revision=None), folder, "initialised")
try:
    assert push(api, folder, repo).commit is not None
    assert push(api, folder, repo).commit is None
    assert api.model_info(repo).private
    assert pull(api, repo, out=root / "out").manifest.anchored
finally:
    api.delete_repo(repo, missing_ok=True)
assert not api.repo_exists(repo)
"""


def test_create_push_pull_and_delete(live_environment, tmp_path):
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, tmp_path],
        env=live_environment | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
