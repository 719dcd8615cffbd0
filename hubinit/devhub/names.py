"""Which names are allowed for repos, files and refs, and which files are stored as LFS."""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Literal, get_args

from .refusals import bad_request

RepoType = Literal["model", "dataset", "space"]
REPO_TYPES: tuple[RepoType, ...] = get_args(RepoType)

# Second path segments that mean an action, and first ones that mean something else than a namespace.
ACTIONS = (
    {
        "ask-access",
        "auth-check",
        "branch",
        "commit",
        "commits",
        "discussions",
        "duplicate",
        "leaderboard",
        "lfs-files",
        "paths-info",
    }
    | {"preupload", "raw", "refs", "resolve", "revision", "settings", "super-squash", "tag", "tree"}
    | {"user-access-request", "xet-read-token", "xet-write-token"}
)
RESERVED_NAMESPACES = {"api", "datasets", "spaces", "lfs"}

REGULAR_MAX_BYTES = 1 << 20
LFS_SUFFIXES = (
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".npy", ".npz", ".h5", ".msgpack", ".model"}
    | {".parquet", ".arrow", ".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".7z", ".pkl", ".pickle", ".joblib"}
    | {".png", ".jpg", ".jpeg", ".gif", ".webp", ".wav", ".mp3", ".mp4", ".pdf"}
)
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES)).encode()

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")
COMMIT_SHA = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def check_namespace(name: str) -> str:
    """A user's or organisation's name, unchanged.

    Raises:
        Refusal: (400) it is not a legal or a free name.
    """
    if not _PART.fullmatch(name) or ".." in name or "--" in name or name in RESERVED_NAMESPACES:
        raise bad_request(f"{name!r} is not a valid namespace: use letters, digits, '-', '_' and '.'")
    return name


def check_repo_id(repo_id: str) -> str:
    """A repo id `namespace/name`, unchanged.

    Raises:
        Refusal: (400) it is not of that form.
    """
    namespace, slash, name = repo_id.partition("/")
    legal = slash and _PART.fullmatch(name) and ".." not in name and "--" not in name
    if not legal or name in ACTIONS or name.endswith((".git", ".ipynb")):
        raise bad_request(
            f"{repo_id!r} is not a valid repo id: it must be namespace/name, of letters, digits, '-', '_' and '.'"
        )
    check_namespace(namespace)
    return repo_id


def check_path(path: str) -> str:
    """A file's path inside its repo, unchanged.

    Raises:
        Refusal: (400) it is absolute, climbs, is too long or has parts or characters no checkout could hold.
    """
    parts = path.split("/")
    bad_part = any(part in ("", ".", "..") or part.lower() == ".git" or len(part) > 255 for part in parts)
    bad_character = "\\" in path or any(unicodedata.category(character) in ("Cc", "Cs") for character in path)
    if bad_part or bad_character or len(path) > 1000:
        raise bad_request(f"{path[:200]!r} is not a valid path in a repo")
    return path


def check_ref(name: str) -> str:
    """A branch's or tag's name, unchanged.

    Raises:
        Refusal: (400) git would not take it, or it could be mistaken for a commit or a full ref.
    """
    illegal = not _REF.fullmatch(name) or ".." in name or "//" in name or name.endswith((".lock", "/", "."))
    if illegal or name.startswith("refs/") or COMMIT_SHA.fullmatch(name):
        raise bad_request(f"{name[:200]!r} is not a valid name of a branch or tag")
    return name


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether a file is stored as LFS: by its suffix, its size, or because its first bytes are not text; never when empty."""
    if size == 0:
        return False
    if PurePosixPath(path).suffix.lower() in LFS_SUFFIXES or size > REGULAR_MAX_BYTES or b"\0" in sample:
        return True
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return (
            error.start < len(sample) - 3
        )  # a character that the end of the sample cuts does not make the content binary
    return False
