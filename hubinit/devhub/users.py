"""Who may do what: each user owns the namespace of their own name, and nothing else is writable over HTTP.

Repos of other namespaces (the seeded organisations) are read-only for everyone; only the seeding command, which writes to the
folder itself, changes them. Anyone signed in may open a discussion or a pull request on what they can read.
"""

import re
import secrets
from collections.abc import Mapping
from hmac import compare_digest
from pathlib import Path

from hubinit.errors import HubError

from .blobs import write_durably
from .names import check_namespace

DEFAULT_USER = "local"
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")


def token_file(root: Path, name: str) -> Path:
    """Where a user's token is kept for pasting, readable by the owner of the folder only."""
    return root / "tokens" / name


def parse_users(text: str) -> dict[str, str | None]:
    """The users that a file or a variable names: `NAME=TOKEN`, or `NAME` for a token made here, between spaces or lines.

    A line that begins with `#` is a comment.

    Raises:
        HubError: a name comes twice.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    words = [word.partition("=") for line in lines for word in line.split()]
    users = {name: token if equals else None for name, equals, token in words}
    if len(users) < len(words):
        raise HubError("A user of the embedded Hub is named twice; give every user one token.")
    return users


def sign_up(root: Path, users: Mapping[str, str | None] | None) -> dict[str, str]:
    """The users of a server, with each one's token in its file.

    Args:
        root: the Hub's folder.
        users: name to token; None for a token that is made once per root, and for one user `local`.

    Raises:
        HubError: a name is not a legal namespace, or tokens are empty or shared.
    """
    tokens = {}
    for name, token in (users or {DEFAULT_USER: None}).items():
        path = token_file(root, check_namespace(name))
        kept = path.read_text().strip() if path.exists() else ""
        tokens[name] = token if token is not None else kept or f"hf_{secrets.token_hex(17)}"
    if not all(TOKEN.fullmatch(token) for token in tokens.values()):
        raise HubError("A token of the embedded Hub is made of letters, digits, '_' and '-'; write NAME=TOKEN.")
    if len(set(tokens.values())) < len(tokens):
        raise HubError("Every user of the embedded Hub needs a token of their own.")
    for name, token in tokens.items():
        write_durably(token_file(root, name), token.encode())
    return tokens


def user_of(users: Mapping[str, str], token: str) -> str | None:
    """The user with this token; every token is compared in full, so timing tells nothing."""
    found = [name for name, known in users.items() if compare_digest(known.encode(), token.encode())]
    return found[0] if found else None
