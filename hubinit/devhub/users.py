"""Who may do what: each user owns the namespace of their own name, and nothing else is writable over HTTP.

Repos of other namespaces (the seeded organisations) are read-only for everyone; only the seeding command, which writes to the
folder itself, changes them. Anyone signed in may open a discussion or a pull request on what they can read.
"""

import json
import secrets
from collections.abc import Mapping
from hmac import compare_digest
from pathlib import Path

from hubinit.errors import HubError

from .blobs import write_atomic
from .names import check_namespace

DEFAULT_USER = "local"


def users_file(root: Path) -> Path:
    """Where the default user's token is kept, readable by the owner of the folder only."""
    return root / "users.json"


def default_users(root: Path) -> dict[str, str]:
    """The one default user with a token that is made once per root.

    Raises:
        HubError: the file is there and unusable.
    """
    path = users_file(root)
    if not path.exists():
        write_atomic(path, json.dumps({DEFAULT_USER: f"hf_{secrets.token_hex(17)}"}).encode(), mode=0o600)
    try:
        users = json.loads(path.read_text())
        return check_users({str(name): str(token) for name, token in users.items()})
    except (ValueError, AttributeError) as error:
        raise HubError(f"{path} does not hold names and tokens as JSON; delete it to have it made anew.") from error


def check_users(users: Mapping[str, str]) -> dict[str, str]:
    """The same users.

    Raises:
        HubError: a name is not a legal namespace, or tokens are empty or shared.
    """
    for name in users:
        check_namespace(name)
    if not all(users.values()) or len(set(users.values())) < len(users):
        raise HubError("Every user of the embedded Hub needs a token of their own; give them as --user NAME:TOKEN.")
    return dict(users)


def user_of(users: Mapping[str, str], token: str) -> str | None:
    """The user with this token; every token is compared in full, so timing tells nothing."""
    found = [name for name, known in users.items() if compare_digest(known.encode(), token.encode())]
    return found[0] if found else None
