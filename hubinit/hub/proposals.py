"""Results in a leaderboard data set that strangers proposed by pull request, before or after they were merged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from hubinit.errors import HubError
from hubinit.leaderboard.submission import NAMES, size_problem
from hubinit.remote import call, read_file
from hubinit.text import one_line

TOTAL_BYTES = 2_000_000_000  # that are fetched of one proposal
MOST_ENTRIES = 400_000  # files and folders of a data set
Tree = dict[str, tuple[str, int]]  # path ─► name of the content, and size


@dataclass(frozen=True)
class Proposal:
    """The files that a pull request (or the data set itself) holds of a submission.

    Attributes:
        revision: the commit at which they are read.
        files: names of those that may be part of a submission.
        wrong: why others may not be.
        contents: name ─► the content as the Hub names it: of a parquet file its sha256.
    """

    revision: str
    files: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)


def find_proposal(api: HfApi, repo_id: str, number: int | None) -> Proposal:
    """What a pull request changes; without a number, the submissions that were merged.

    Raises:
        HubError: it cannot be read, or holds too much.
    """
    reference = f"refs/pr/{number}" if number is not None else "main"
    what = f"pull request {number} of {repo_id}" if number is not None else repo_id
    info = call(f"read {what}", lambda: api.dataset_info(repo_id, revision=reference), api=api)
    revision = str(info.sha)
    tree = _tree(api, repo_id, revision)
    if number is None:
        names = [name for name in tree if NAMES.fullmatch(name)]
        return _limited(revision, {name: tree[name] for name in names}, [])
    before = _tree(api, repo_id, _base(api, repo_id, reference))
    changed = {name: entry for name, entry in tree.items() if before.get(name) != entry}
    if (total := sum(size for _, size in changed.values())) > TOTAL_BYTES:
        raise HubError(f"{what} brings {total} bytes, more than {TOTAL_BYTES}; ask for it in parts.")
    wrong = [
        f"it changes {_shown(name)}, which is not part of a submission" for name in changed if not NAMES.fullmatch(name)
    ]
    wrong += [f"it deletes {_shown(name)}" for name in before.keys() - tree.keys()]
    wrong += [f"it replaces {_shown(name)}" for name in changed if NAMES.fullmatch(name) and name in before]
    return _limited(revision, {name: e for name, e in changed.items() if NAMES.fullmatch(name)}, wrong)


def fetch_proposal(api: HfApi, repo_id: str, proposal: Proposal, folder: Path) -> None:
    """Downloads the files of a proposal into a folder.

    Raises:
        HubError: the Hub cannot be read.
    """
    for name in proposal.files:
        content = read_file(api, repo_id, name, repo_type="dataset", revision=proposal.revision)
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def _limited(revision: str, tree: Tree, wrong: list[str]) -> Proposal:
    sizes = {name: size_problem(name, size) for name, (_, size) in tree.items()}
    wrong += [f"{name} {problem}" for name, problem in sizes.items() if problem]
    files = sorted(name for name, problem in sizes.items() if not problem)
    return Proposal(revision, tuple(files), tuple(sorted(wrong)), {name: tree[name][0] for name in files})


def _base(api: HfApi, repo_id: str, reference: str) -> str:
    """The newest commit of main that a pull request was made from."""

    def commits(revision: str) -> list[str]:
        return [one.commit_id for one in api.list_repo_commits(repo_id, repo_type="dataset", revision=revision)]

    main = set(call(f"read the history of {repo_id}", lambda: commits("main"), api=api))
    mine = call(f"read the history of {repo_id}", lambda: commits(reference), api=api)
    found = next((commit for commit in mine if commit in main), None)
    if found is None:
        raise HubError(f"{reference} of {repo_id} has nothing in common with main; close it, and propose it anew.")
    return found


def _tree(api: HfApi, repo_id: str, revision: str) -> Tree:
    def files() -> list[RepoFile]:
        tree = api.list_repo_tree(repo_id, repo_type="dataset", revision=revision, recursive=True)
        return [one for one in islice(tree, MOST_ENTRIES + 1) if isinstance(one, RepoFile)]

    found = call(f"list the files of {repo_id}", files, api=api)
    if len(found) >= MOST_ENTRIES // 2:
        raise HubError(f"{repo_id} at {revision[:8]} has {len(found)} files or more; look at it by hand.")
    return {one.path: (one.lfs.sha256 if one.lfs else one.blob_id, one.size) for one in found}


def _shown(name: str) -> str:
    return one_line(name)[:200]
