"""Whether a token may write where something is to be published: asked before the work, not after it."""

from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.utils._validators import validate_repo_id

from hubinit.errors import HubError
from hubinit.remote import HUB_ERRORS, RepoType, call, explain


def check_write(api: HfApi, where: str, repo_type: RepoType = "model") -> None:
    """Checks that this token may publish to a namespace or a repo, whether the repo is there yet or not.

    Offline, where everything goes to the outbox, only the name is checked.

    Args:
        api: client with the token.
        where: `namespace`, or `namespace/name`.
        repo_type: of the repo.

    Raises:
        HubError: it may not, the name is not valid, or the Hub cannot be reached.
    """
    namespace, _, name = where.partition("/")
    action = f"publish to {where}"
    try:
        validate_repo_id(where if name or "/" in where else f"{where}/x")
    except HUB_ERRORS as error:
        raise explain(error, action, api) from error
    if is_offline_mode():
        return
    if name and call(action, lambda: api.repo_exists(where, repo_type=repo_type), api=api):
        call(action, lambda: api.auth_check(where, repo_type=repo_type, write=True), api=api)
        return
    me = call(action, api.whoami, api=api)
    if (me.get("auth", {}).get("accessToken") or {}).get("role") == "read":
        raise HubError(f"Cannot {action}: this token may only read; log in with one that may write (`hf auth login`).")
    orgs = {org["name"]: org.get("roleInOrg") for org in me.get("orgs", ())}
    if namespace != me["name"] and orgs.get(namespace, "read") == "read":
        mine = [me["name"], *(org for org, role in orgs.items() if role != "read")]
        raise HubError(f"Cannot {action}: {me['name']} may publish under {', '.join(mine)}, not under {namespace}.")
