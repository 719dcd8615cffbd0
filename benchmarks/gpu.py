"""What a GPU machine without network can tell in nine minutes: `make bench-gpu` and `make study-gpu`.

Every stage is a process of its own with its share of the time. What a stage leaves is recorded as soon as it ends, so a
stage that fails, hangs or is cut off costs itself only. At the end `gpu-bench.json` and `gpu-bench.md` (or `gpu-study.…`) in
`--out` say what ran, what did not, and why.

    python benchmarks/gpu.py bench --carry carried --out results
    python benchmarks/gpu.py study --carry carried --out results     # again with the same --out: goes on
    python benchmarks/gpu.py bench --rehearse                        # tiny sizes on a CPU, to try the command itself

This file and `gpu_setup.py` import the standard library only: they run before anything carried can be imported.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_setup import ROOT, Place, SetupError, explain, last_line, missing, prepare, serving
from gpu_stages import REHEARSED, STAGES, Stage

RESULTS = ROOT / "benchmarks" / "results"
GRACE = 5.0  # seconds between asking a stage to end and ending it
RESERVE = 5.0  # seconds kept for the summary

# Prints what the machine is, as JSON; run in a process of its own, because it needs torch.
MACHINE = "from hubinit.runs.costs import provenance; print(provenance('').model_dump_json())"

REHEARSAL = "**A rehearsal with tiny sizes on a CPU: nothing here is a measurement.**"


@dataclass(frozen=True)
class Outcome:
    """What became of a stage.

    Attributes:
        name: the stage's.
        status: ok, failed, stopped (out of time), or not run.
        note: why not, or the last line that it printed.
        seconds: that it took.
        share: seconds that it was given.
        command: that was run, without this machine's folders.
        output: all that it printed, where that is its result.
    """

    name: str
    status: str
    note: str = ""
    seconds: float = 0.0
    share: float = 0.0
    command: str = ""
    output: str = ""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; empty values, as make passes them, count as not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(STAGES))
    parser.add_argument(
        "--carry", default="", help="folder of carried wheels, model and data; default: none, with network"
    )
    parser.add_argument(
        "--out", default="", help="default: benchmarks/results (study/ of it); for a rehearsal a new folder"
    )
    parser.add_argument(
        "--work", default="", help="packages, Hub, caches and adapters; default: in the temporary folder"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything, the setup included")
    parser.add_argument("--workers", type=int, default=0, help="runs at once in the study; default: by the cores")
    parser.add_argument("--only", default="", help="stages to run, separated by commas; default: all")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    return parser.parse_args(argv)


def main() -> int:
    """Prepares, runs the stages, and says what came of it."""
    options = arguments()
    end = time.monotonic() + options.minutes * 60
    uid = os.getuid() if hasattr(os, "getuid") else 0
    work = Path(options.work or Path(tempfile.gettempdir()) / f"hubinit-gpu-{uid}").resolve()
    if options.rehearse and not options.out:  # never among what is recorded
        options.out = tempfile.mkdtemp(prefix="hubinit-rehearsal-")
    out = Path(options.out or (RESULTS / "study" if options.what == "study" else RESULTS)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        place = prepare(Path(options.carry).resolve() if options.carry else None, work)
        machine = describe_machine(place)
        if not options.rehearse and "gpu" not in machine.get("hardware", {}):
            raise SetupError("torch sees no CUDA device here; run this on a GPU machine, or rehearse with REHEARSE=1.")
    except SetupError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    values = {
        "python": sys.executable,
        "device": "cpu" if options.rehearse else "cuda",
        "out": str(out),
        "work": str(work),
        "workers": str(options.workers or (2 if options.rehearse else max(1, min(8, (os.cpu_count() or 2) // 2)))),
    }
    stages = chosen(REHEARSED[options.what] if options.rehearse else STAGES[options.what], options.only)
    say(f"{len(stages)} stages, {max(0.0, end - time.monotonic()):.0f} s left, results go to {out}")
    outcomes: list[Outcome] = []
    with serving(place) as environment:
        while stages:
            stage, *stages = stages
            left = end - RESERVE - time.monotonic()
            waiting = [other for other in stages if not obstacle(other, left, place)]
            outcomes.append(run_stage(stage, share(left, stage, waiting), values, environment, place, out))
            write_summary(out, options, machine, place, outcomes, stages)
    print((out / f"gpu-{options.what}.md").read_text())
    return sum(outcome.status in ("failed", "stopped") for outcome in outcomes)


def chosen(stages: Sequence[Stage], only: str) -> list[Stage]:
    """The stages that the command line names, all by default.

    Raises:
        SystemExit: it names one that does not exist.
    """
    names = [name for name in only.split(",") if name]
    if unknown := [name for name in names if name not in {stage.name for stage in stages}]:
        raise SystemExit(f"Error: no stage '{unknown[0]}'; there are {', '.join(stage.name for stage in stages)}.")
    return [stage for stage in stages if not names or stage.name in names]


def share(left: float, stage: Stage, waiting: Sequence[Stage]) -> float:
    """Seconds for a stage: its part, by weight, of what is left. What it does not use goes to those after it."""
    return max(0.0, left) * stage.weight / sum(other.weight for other in (stage, *waiting))


def obstacle(stage: Stage, seconds: float, place: Place) -> str:
    """Why a stage cannot run here, in words; empty when it can."""
    if lacking := missing(stage.modules):
        return explain(lacking)
    if absent := [name for name in stage.seeds if name not in place.has]:
        return "; ".join(place.notes) or f"{', '.join(absent)} not on the embedded Hub"
    if gone := [name for name in stage.files if not (ROOT / name).is_file()]:
        return f"{', '.join(gone)} is not in this checkout"
    if seconds < stage.least:
        return f"{seconds:.0f} s left for it, less than the {stage.least:.0f} s that it needs"
    return ""


def run_stage(
    stage: Stage, seconds: float, values: dict[str, str], environment: dict[str, str], place: Place, out: Path
) -> Outcome:
    """Runs one stage under its time limit, its output in a log of its own."""
    if reason := obstacle(stage, seconds, place):
        say(f"{stage.name}: not run: {reason}")
        return Outcome(stage.name, "not run", reason, share=round(seconds, 1))
    # A stage that can end by itself is told to, a little early, so that its record is written.
    own = int(max(0.8 * seconds, seconds - 25))  # its imports come before its clock starts
    command = [word.format(**values, seconds=own) for word in stage.command.split()]
    shown = shlex.join(["python" if part == sys.executable else part for part in command]).replace(str(out), "OUT")
    log = out / "gpu-logs" / f"{stage.name}.log"
    log.parent.mkdir(exist_ok=True)
    say(f"{stage.name}: up to {seconds:.0f} s: {shown}")
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    took = round(time.monotonic() - start, 1)
    output_text = log.read_text(errors="replace").replace(str(out), "OUT")
    status, note = "ok", last_line(output_text)
    if code is None:
        status, note = "stopped", f"its {seconds:.0f} s were over; its last line: {note}"
    elif code:
        status, note = "failed", f"exit code {code}; its last line: {note}"
    say(f"{stage.name}: {status} after {took:.0f} s: {note}")
    if stage.prints and status == "ok":
        return Outcome(stage.name, status, "below", took, round(seconds, 1), shown, output_text)
    return Outcome(stage.name, status, note[:500], took, round(seconds, 1), shown)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Ends a stage with all that it started: politely first."""
    for sign, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):  # the group is gone
            return
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue


def describe_machine(place: Place) -> dict[str, Any]:
    """Versions, hardware and source state.

    Raises:
        SetupError: hubinit cannot be imported with what is here.
    """
    command = [sys.executable, "-c", MACHINE]
    done = subprocess.run(command, capture_output=True, text=True, env=place.environment, cwd=ROOT)
    if done.returncode:
        raise SetupError(f"hubinit cannot be imported here: {last_line(done.stderr)}; add what is missing to CARRY.")
    facts: dict[str, Any] = json.loads(last_line(done.stdout))
    return facts


def write_summary(
    out: Path,
    options: argparse.Namespace,
    machine: dict[str, Any],
    place: Place,
    outcomes: Sequence[Outcome],
    waiting: Sequence[Stage],
) -> None:
    """Writes the record so far, whole: the command may be killed at any moment."""
    left = [Outcome(stage.name, "not run", "the command ended before its turn") for stage in waiting]
    record = {
        "rehearsal": options.rehearse,
        "command": f"python benchmarks/gpu.py {options.what}" + (" --rehearse" if options.rehearse else ""),
        "minutes": options.minutes,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key: machine.get(key) for key in ("hardware", "versions", "git_sha", "git_dirty")},
        "notes": place.notes,
        "stages": [asdict(outcome) for outcome in (*outcomes, *left)],
        "files": sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith(".")),
    }
    for suffix, text in ((".json", json.dumps(record, indent=1) + "\n"), (".md", summary(record))):
        temporary = out / f".gpu-{options.what}{suffix}"
        temporary.write_text(text)
        temporary.replace(out / f"gpu-{options.what}{suffix}")


def summary(record: dict[str, Any]) -> str:
    """The record for people, in Markdown."""
    hardware, versions = record["hardware"] or {}, record["versions"] or {}
    where = hardware.get("gpu") or hardware.get("cpu", platform.processor())
    lines = [
        f"# `{record['command']}` on {where}",
        "",
        *([REHEARSAL, ""] if record["rehearsal"] else []),
        f"{hardware.get('cores', '?')} cores, {hardware.get('memory', '?')}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; commit {(record['git_sha'] or 'unknown')[:10]}{' with changes' if record['git_dirty'] else ''}; "
        f"written {record['written']}, time limit {record['minutes']:g} minutes.",
        "",
        "| stage | status | seconds | of | why not, or its last line |",
        "|---|---|--:|--:|---|",
    ]
    for stage in record["stages"]:
        cells = [stage["name"], stage["status"], f"{stage['seconds']:.0f}", f"{stage['share']:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {stage['note'].replace('|', '/')} |")
    lines += [f"\n{note}." for note in record["notes"]]
    lines += [f"\n```\n{stage['output'].strip()}\n```" for stage in record["stages"] if stage["output"]]
    return "\n".join([*lines, "", "Files: " + ", ".join(f"`{name}`" for name in record["files"]), ""])


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
