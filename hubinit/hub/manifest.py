"""What may go into an adapter repo, and reading the `hubinit.json` that others wrote."""

import json
from pathlib import Path, PurePosixPath

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from hubinit.errors import HubError
from hubinit.records import ITEMS, MANIFEST, Manifest
from hubinit.remote import SECRET, known_tokens
from hubinit.text import one_line

CARD = "README.md"
ALLOWED_SUFFIXES = {".safetensors", ".json", ".yaml", ".yml"}
ALLOWED_NAMES = {CARD, "LICENSE", ".gitattributes"}
ALLOWED_HIDDEN_FOLDERS = {".eval_results"}


def read_manifest(text: bytes | str, where: str) -> Manifest:
    """Reads a `hubinit.json` that others wrote.

    Raises:
        HubError: it is not one.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = one_line(f"{place}: {first['msg']}")  # others wrote it
        raise HubError(
            f"{MANIFEST} of {where} cannot be used ({reason}); it is damaged or of a newer hubinit."
        ) from error


def list_files(folder: Path) -> dict[str, Path]:
    """Lists the files of `folder` that may be published, by their path in the repo; answers (`items/`) are not among them.

    Raises:
        HubError: something is in there that must not be published: an unexpected file, a link, a file that is not what
            its name says, or text that looks like an access token.
    """
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder; give the folder that holds the adapter.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise HubError(f"{name} in {folder} is a link; publish the file itself.")
        if path.is_file() and not name.startswith(f"{ITEMS}/"):
            _check_name(name, folder)
            _check_content(path, name)
            found[name] = path
    if not found:
        raise HubError(f"{folder} is empty; there is nothing to publish.")
    return found


def check_text(text: str, name: str) -> None:
    """Refuses text that holds an access token.

    Raises:
        HubError: it does; the message does not repeat it.
    """
    if SECRET.search(text) or any(token in text for token in known_tokens()):
        raise HubError(f"{name} holds what looks like an access token; remove it (and revoke it) before publishing.")


def _check_name(name: str, folder: Path) -> None:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") and part not in ALLOWED_HIDDEN_FOLDERS for part in parts[:-1])
    expected = parts[-1] in ALLOWED_NAMES or (
        PurePosixPath(name).suffix in ALLOWED_SUFFIXES and not parts[-1].startswith(".")
    )
    if hidden or not expected:
        raise HubError(
            f"{name} in {folder} is not a file that hubinit publishes (safetensors, JSON, YAML, {CARD}); "
            "move it out of the folder."
        )


def _check_content(path: Path, name: str) -> None:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy") as file:
                text = json.dumps(file.metadata() or {}) + " ".join(file.keys())
        except (SafetensorError, OSError) as error:
            raise HubError(f"{name} is not a safetensors file; save it again as safetensors.") from error
    else:
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HubError(f"{name} is not readable text (or JSON); repair it before publishing.") from error
    check_text(text, name)
