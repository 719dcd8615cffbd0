"""What `eval --out` keeps: the scores of one model and every answer, task by task, so that a second call goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hubinit.errors import HubinitError, first_line
from hubinit.hub.answers import SCORES, read_scores
from hubinit.paths import write_atomically
from hubinit.records import ITEMS, Record, Score, items_name, write_items
from hubinit.runs.costs import provenance
from hubinit.runs.sweep import command_line
from hubinit.scoring.spec import Scored
from hubinit.specs import EvalSpec

STATE = "eval.json"


class State(Record):
    """Whose scores a folder holds, and which tasks are still to be scored, with the reason."""

    subject: dict[str, str]
    unfinished: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """A folder of scores.

    Attributes:
        folder: where they are; None: nothing is kept.
        subject: what is scored.
    """

    folder: Path | None
    subject: Mapping[str, str]

    def scores(self) -> list[Score]:
        """All scores that are there.

        Raises:
            HubinitError: the file is damaged.
        """
        there = self.folder is not None and (self.folder / SCORES).exists()
        return list(read_scores(self.folder / SCORES)) if self.folder and there else []

    def done(self, evaluation: EvalSpec) -> list[Score]:
        """The scores of an evaluation that is complete and whose answers are there."""
        if self.folder is None or evaluation.task in self._state().unfinished:
            return []
        found = [score for score in self.scores() if score.eval == evaluation]
        return found if (self.folder / ITEMS / items_name(evaluation)).is_file() else []

    def add(self, evaluation: EvalSpec, scored: Scored) -> list[Score]:
        """Keeps scores and answers of an evaluation in place of earlier ones; returns the scores, which name the answers."""
        if self.folder is None:
            return scored.scores
        made = provenance(command_line())
        digest = write_items(self.folder / ITEMS / items_name(evaluation), scored.items)
        new = [
            score.model_copy(update={"items": digest, "provenance": score.provenance or made})
            for score in scored.scores
        ]
        kept = [score for score in self.scores() if score.eval != evaluation] + new
        rows: list[Any] = [json.loads(score.model_dump_json()) for score in kept]
        write_atomically(self.folder / SCORES, json.dumps(rows, indent=1) + "\n")
        self.note(evaluation.task, " ".join(scored.notes))
        return new

    def note(self, task: str, reason: str) -> None:
        """Keeps why a task is still to be scored, wholly or in part; "" where it is not."""
        if self.folder is None:
            return
        others = {name: why for name, why in self._state().unfinished.items() if name != task}
        self._write(State(subject=dict(self.subject), unfinished=others | ({task: reason} if reason else {})))

    def _state(self) -> State:
        assert self.folder is not None
        return read_state(self.folder / STATE)

    def _write(self, state: State) -> None:
        assert self.folder is not None
        write_atomically(self.folder / STATE, state.model_dump_json(indent=1) + "\n")


def open_kept(folder: Path | None, subject: Mapping[str, str]) -> Kept:
    """Opens a folder of scores, a new one or one that holds scores of the same model.

    Raises:
        HubinitError: it holds scores of something else, or is damaged.
        OSError: it cannot be written.
    """
    kept = Kept(folder, subject)
    if folder is None:
        return kept
    if (folder / STATE).exists():
        before = read_state(folder / STATE).subject
        if changed := [name for name in {**before, **subject} if before.get(name) != subject.get(name)]:
            was = ", ".join(f"{name} {before.get(name, 'none')}" for name in changed)
            now = ", ".join(f"{name} {subject.get(name, 'none')}" for name in changed)
            raise HubinitError(
                f"{folder} holds scores of something else ({was}; now {now}); choose another folder for --out."
            )
    elif (folder / SCORES).exists():
        raise HubinitError(f"{folder} holds scores already, and not of what; choose another folder for --out.")
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is said before the work
    if not (folder / STATE).exists():
        kept._write(State(subject=dict(subject)))
    return kept


def read_state(path: Path) -> State:
    """Reads the state of a folder.

    Raises:
        HubinitError: the file is damaged.
    """
    try:
        return State.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise HubinitError(f"{path} is not readable ({first_line(error)}); choose another folder for --out.") from error
