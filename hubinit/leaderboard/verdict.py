"""What a check of a submission found, for people, scripts and a comment below a pull request."""

from collections.abc import Iterator, Sequence

import pandas as pd

from hubinit.leaderboard.submission import Submitted
from hubinit.records import Record
from hubinit.text import code, escape, one_line

SHOWN = 20  # runs, and reasons of each, that a comment names; the JSON has them all


class RunVerdict(Record):
    """What was found about one run; an empty key stands for files that belong to none."""

    key: str
    model: str = ""
    method: str = ""
    accepted: bool
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


class Verdict(Record):
    """What was found about a submission: accepted where nothing in it is wrong."""

    source: str
    accepted: bool
    rows: int
    runs: tuple[RunVerdict, ...]

    @property
    def title(self) -> str:
        """The outcome in one sentence."""
        known, bad = sum(bool(run.key) for run in self.runs), sum(not run.accepted for run in self.runs)
        if self.accepted:
            return f"Accepted: {_count(known, 'run')}, {_count(self.rows, 'new row')}."
        return f"Rejected: something is wrong with {bad} of {len(self.runs)}; nothing of it may be merged."


def judge(source: str, runs: Sequence[Submitted], new: pd.DataFrame) -> Verdict:
    """The verdict on runs that were checked, which would add these rows."""
    found = tuple(
        RunVerdict(
            key=run.key,
            model=one_line(run.result.spec.model.id)[:200] if run.result else "",
            method=one_line(run.result.spec.method.name)[:200] if run.result else "",
            accepted=not run.wrong,
            wrong=tuple(run.wrong),
            notes=tuple(run.notes),
            checks=tuple(run.checks),
        )
        for run in runs
    )
    return Verdict(source=source, accepted=all(one.accepted for one in found), rows=len(new), runs=found)


def lines(verdict: Verdict) -> Iterator[str]:
    """The verdict for a terminal."""
    yield f"{verdict.source}: {verdict.title}"
    for run in verdict.runs:
        yield f"  {_name(run)}: {'accepted' if run.accepted else 'REJECTED'}"
        yield from (f"    wrong: {reason}" for reason in run.wrong)
        yield from (f"    note: {note}" for note in run.notes)
        yield from (f"    checked: {check}" for check in run.checks)


def markdown(verdict: Verdict) -> str:
    """The verdict as a comment; whatever strangers wrote is escaped."""
    parts = [f"### {escape(verdict.title)}"]
    for run in sorted(verdict.runs, key=lambda run: run.accepted)[:SHOWN]:
        said = [
            *(("wrong", reason) for reason in run.wrong),
            *(("note", note) for note in run.notes),
            *(("checked", check) for check in run.checks),
        ]
        body = [f"- {kind}: {_plain(text)}" for kind, text in said[:SHOWN]]
        body += [f"- … and {len(said) - SHOWN} more"] if len(said) > SHOWN else []
        parts.append("\n".join([f"**{'accepted' if run.accepted else 'rejected'}** {code(_name(run))}", "", *body]))
    if len(verdict.runs) > SHOWN:
        parts.append(f"… and {len(verdict.runs) - SHOWN} more runs.")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Words of a stranger that name nobody: a comment with @name or #1 would tell people and link issues."""
    return escape(text).replace("@", "@\u200b").replace("#", "#\u200b")


def _name(run: RunVerdict) -> str:
    return " ".join(part for part in (run.key, run.model, run.method) if part) or "files"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
