"""The kept answers of whatever was evaluated: a run, a folder of `hubinit eval --out`, an adapter here or on a Hub."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from pydantic import TypeAdapter, ValidationError

from hubinit.errors import HubError, HubinitError, first_line, nearest
from hubinit.hub.manifest import read_manifest
from hubinit.records import ITEMS, MANIFEST, Item, Score, items_name, read_items, read_result
from hubinit.remote import call, read_file
from hubinit.specs import EvalSpec

SCORES = "scores.json"  # of a folder of `hubinit eval --out`


@dataclass(frozen=True)
class Answers:
    """The scores of one model and the way to the item records that they were made from.

    Attributes:
        name: what it was asked for by.
        scores: in the order in which they were made.
        fetch: name of a file of item records ─► where it lies on this machine.
    """

    name: str
    scores: tuple[Score, ...]
    fetch: Callable[[str], Path]

    def tasks(self) -> list[str]:
        """The tasks that were scored."""
        return list(dict.fromkeys(score.task for score in self.scores))

    def evaluations(self, task: str | None) -> list[EvalSpec]:
        """The evaluations of a task, the newest last; without a name the only task there is.

        Raises:
            HubinitError: the task was not scored, or there are several to choose from.
        """
        known = self.tasks()
        if task is None and len(known) != 1:
            raise HubinitError(
                f"{self.name} was scored on {', '.join(known)}; choose one with --task."
                if known
                else f"{self.name} has no scores."
            )
        name = task or known[0]
        if name not in known:
            raise HubinitError(f"{self.name} was not scored on '{name}': {nearest(name, known)}")
        return list(dict.fromkeys(score.eval for score in self.scores if score.task == name))

    def primary(self, evaluation: EvalSpec) -> str:
        """The metric that ranks the task of an evaluation."""
        found = [score for score in self.scores if score.eval == evaluation]
        return next((score.metric for score in found if score.primary), found[0].metric)

    def total(self, evaluation: EvalSpec, metric: str) -> float | None:
        """A score of an evaluation; None where it has no such metric."""
        found = (score.value for score in self.scores if score.eval == evaluation and score.metric == metric)
        return next(found, None)

    def items(self, evaluation: EvalSpec) -> list[Item]:
        """The item records of an evaluation.

        Raises:
            HubinitError: none were kept, or they are missing or damaged.
        """
        digest = next(score.items for score in self.scores if score.eval == evaluation)
        if digest is None:
            raise HubinitError(f"The score of {self.name} on '{evaluation.task}' is of a version that kept no answers.")
        return read_items(self.fetch(items_name(evaluation)), digest)


def find_answers(target: str, out: Path, api: HfApi) -> Answers:
    """Finds the answers of a folder, of a run by its key or the beginning of one, or of a repo on a Hub.

    Args:
        target: what the user calls it.
        out: folder of results, whose keys may be shortened.
        api: client.

    Raises:
        HubError: no such repo, or one without results.
        HubinitError: no such folder or run, or several runs.
    """
    if Path(target).is_dir():
        return of_folder(Path(target))
    if re.fullmatch(r"[0-9a-f]{1,16}", target):
        keys = [path.parent.name for path in sorted(out.glob(f"runs/{target}*/result.json"))]
        if len(keys) > 1:
            raise HubinitError(
                f"{len(keys)} runs in {out} begin with '{target}': {', '.join(keys[:4])}; say more of it."
            )
        if keys:
            return of_folder(out / "runs" / keys[0])
    if target.count("/") == 1:
        return of_repo(target, api)
    raise HubinitError(
        f"'{target}' is neither a folder, nor the beginning of a run's key in {out.resolve()}, nor a Hub repository."
    )


def of_folder(folder: Path) -> Answers:
    """The answers of a run, of an adapter (its run's, or those pulled with it), or of `hubinit eval --out`."""
    run = next((one for one in (folder, folder.resolve().parent) if (one / "result.json").is_file()), None)
    if run is not None:
        scores, place = read_result(run / "result.json").scores, run
    elif (folder / SCORES).is_file():
        scores, place = read_scores(folder / SCORES), folder
    elif (folder / MANIFEST).is_file():
        scores, place = read_manifest((folder / MANIFEST).read_bytes(), str(folder)).result.scores, folder
    else:
        raise HubinitError(f"{folder} holds no results: neither result.json, nor {SCORES}, nor {MANIFEST}.")
    return Answers(str(folder), scores, lambda name: place / ITEMS / name)


def of_repo(repo_id: str, api: HfApi) -> Answers:
    """The answers that were published with an adapter."""
    sha = call(f"find {repo_id}", lambda: api.repo_info(repo_id).sha, api=api)
    content = read_file(api, repo_id, MANIFEST, revision=sha)
    if content is None:
        raise HubError(f"{repo_id} has no {MANIFEST}, so it was not published by hubinit and holds no answers.")

    def fetch(name: str) -> Path:
        path = call(
            f"download the answers {name} of {repo_id}",
            lambda: api.hf_hub_download(repo_id, f"{ITEMS}/{name}", revision=sha),
            api=api,
        )
        return Path(path)

    return Answers(repo_id, read_manifest(content, repo_id).result.scores, fetch)


def read_scores(path: Path) -> tuple[Score, ...]:
    """The scores of `hubinit eval --out`.

    Raises:
        HubinitError: the file is damaged.
    """
    try:
        return TypeAdapter(tuple[Score, ...]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise HubinitError(f"{path} is not a readable file of scores: {first_line(error)}.") from error
