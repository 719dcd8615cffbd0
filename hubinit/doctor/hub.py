"""Whether the Hub answers, and what the token may do there. The token itself is never shown."""

import time
from collections.abc import Iterator
from typing import Any

from huggingface_hub import HfApi, constants, get_session, get_token, is_offline_mode

from hubinit.doctor.finding import Finding
from hubinit.errors import first_line
from hubinit.remote import DATA_ERRORS, HUB_ERRORS, explain, redact

PATIENCE = 10.0  # seconds for one answer
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def check_hub() -> Iterator[Finding]:
    """One small question to the Hub."""
    api = HfApi()
    if is_offline_mode():
        found = f"offline mode: only what is in {constants.HF_HUB_CACHE} is used"
        yield Finding("Hub", "warn", found, "unset HF_HUB_OFFLINE to ask the Hub")
        return
    began = time.monotonic()
    try:
        answer = get_session().get(f"{api.endpoint}/api/models", params={"limit": 1}, timeout=PATIENCE)
        status, listed = answer.status_code, answer.status_code == 200 and isinstance(answer.json(), list)
    except DATA_ERRORS as error:  # ValueError: its answer is not JSON
        found = redact(f"{api.endpoint} cannot be reached ({type(error).__name__}: {first_line(error)})", api)
        yield Finding(
            "Hub", "fail", found, "check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, or use --hub offline"
        )
        return
    if listed:
        yield Finding("Hub", "ok", f"{api.endpoint} answers in {time.monotonic() - began:.1f} s")
    else:
        found = f"{api.endpoint} answers, but not as a Hub does (status {status})"
        yield Finding("Hub", "fail", found, "check HF_ENDPOINT, and whether a proxy wants a login")


def check_token() -> Iterator[Finding]:
    """Whose the token is, and what it may do."""
    api = HfApi()
    if get_token() is None:
        yield Finding("token", "warn", "none: gated models cannot be read, and nothing can be published", LOGIN)
        return
    if is_offline_mode():
        yield Finding("token", "ok", "there is one; the Hub is not asked what it may do")
        return
    try:
        me = api.whoami()
    except HUB_ERRORS as error:
        wrong = getattr(getattr(error, "response", None), "status_code", None) == 401
        if wrong:
            yield Finding("token", "fail", f"{api.endpoint} does not accept it", LOGIN)
        else:
            yield Finding("token", "warn", f"there is one. {explain(error, 'ask what it may do', api)}")
        return
    yield rights(me)


def rights(me: dict[str, Any]) -> Finding:
    """What a token may do, from the Hub's answer to `whoami`."""
    token = me.get("auth", {}).get("accessToken") or {}
    role, name = token.get("role"), me["name"]
    if role == "read":
        return Finding(
            "token", "warn", f"{name}, may only read", "publishing needs one that may write: `hf auth login`"
        )
    if role != "fineGrained":
        orgs = [org["name"] for org in me.get("orgs", ()) if org.get("roleInOrg") != "read"]
        return Finding("token", "ok", f"{name}, may write to {', '.join([name, *orgs])}")
    scoped = (token.get("fineGrained") or {}).get("scoped")
    if scoped is None:
        return Finding("token", "ok", f"{name}, fine-grained; the Hub does not say what it may do")
    writable = [one.get("entity", {}).get("name", "?") for one in scoped if "repo.write" in one.get("permissions", ())]
    if not writable:
        return Finding(
            "token", "warn", f"{name}, fine-grained, may write nowhere", "give it write access to a namespace"
        )
    return Finding("token", "ok", f"{name}, fine-grained, may write to {', '.join(writable)}")
