"""Whether a token may write somewhere is known before anything is computed."""

from types import SimpleNamespace

import pytest

from hubinit.errors import HubError
from hubinit.hub import access
from hubinit.hub.access import check_write


class FakeApi:
    """A user with one token, in organisations with roles."""

    endpoint, token = "http://hub.test", None

    def __init__(self, role="write", **orgs):
        self.role, self.orgs = role, [{"name": name, "roleInOrg": own} for name, own in orgs.items()]

    def whoami(self):
        return {"name": "ann", "orgs": self.orgs, "auth": {"accessToken": {"role": self.role}}}

    def repo_exists(self, repo_id, repo_type):
        return False


def test_on_the_embedded_hub(api):
    from huggingface_hub import HfApi

    check_write(api, "alice")
    check_write(api, "alice/not-there-yet")
    api.create_repo("alice/access", exist_ok=True)
    check_write(api, "alice/access")
    bob = HfApi(token="hf_bob")
    for where in ("alice", "alice/not-there-yet"):
        with pytest.raises(HubError, match=f"Cannot publish to {where}: bob may publish under bob, not under alice"):
            check_write(bob, where)
    with pytest.raises(HubError, match="Cannot publish to alice/access: this token may not do that"):
        check_write(bob, "alice/access")
    with pytest.raises(HubError, match="the token is missing or not valid"):
        check_write(HfApi(token="hf_nobody"), "alice")
    with pytest.raises(HubError, match="name is not valid"):
        check_write(api, "alice/not a name")


def test_roles_of_tokens_and_organisations():
    check_write(FakeApi(lab="write"), "lab")
    check_write(FakeApi(role="fineGrained", lab="contributor"), "lab/new")
    with pytest.raises(HubError, match="this token may only read"):
        check_write(FakeApi(role="read"), "ann")
    with pytest.raises(HubError, match="may publish under ann, lab, not under school"):
        check_write(FakeApi(lab="admin", school="read"), "school")


def test_nobody_is_asked_offline(monkeypatch):
    monkeypatch.setattr(access, "is_offline_mode", lambda: True)
    silent = SimpleNamespace(endpoint="http://hub.test", token=None)
    check_write(silent, "anyone/anything")
    with pytest.raises(HubError, match="name is not valid"):
        check_write(silent, "any one")
