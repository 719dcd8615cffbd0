"""One round trip on the real Hub; only with HUBINIT_LIVE=1 and a token that may write."""

import secrets

import pytest
from builders import run, run_folder
from conftest import LIVE, LIVE_TOKEN
from huggingface_hub import HfApi

from hubinit.hub.publication import describe
from hubinit.hub.pull import pull
from hubinit.hub.push import push


@pytest.mark.skipif(not (LIVE and LIVE_TOKEN), reason="set HUBINIT_LIVE=1 and HF_TOKEN to try the real Hub")
def test_create_push_pull_and_delete(tmp_path):
    api = HfApi(endpoint="https://huggingface.co", token=LIVE_TOKEN)
    repo = f"{api.whoami()['name']}/hubinit-smoke-test-{secrets.token_hex(4)}"
    folder = run_folder(tmp_path / "run") / "init"
    describe(run(model="hf-internal-testing/tiny-random-LlamaForCausalLM", revision=None), folder, "initialised")
    try:
        assert push(api, folder, repo).commit is not None
        assert push(api, folder, repo).commit is None
        assert api.model_info(repo).private
        assert pull(api, repo, out=tmp_path / "out").manifest.anchored
    finally:
        api.delete_repo(repo, missing_ok=True)
    assert not api.repo_exists(repo)
