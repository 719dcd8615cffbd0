"""A refresh of the leaderboard, as .github/workflows/refresh.yml and `make refresh-local` do it: bench, build, publish, compare.

    python benchmarks/refresh.py --owner NAMESPACE --out FOLDER

Runs that are finished in FOLDER are not done again, so what was interrupted goes on and a plan that grew does only what is new.
`board/` in FOLDER is the leaderboard, `last/` that of the last refresh, `report.md` what differs between the two.
Exit status: 3 when something became worse beyond noise, else 1 when a command failed (a run that failed stops no other), else 0.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PLAN = Path(__file__).with_name("refresh.txt")
SUBMISSIONS = Path(__file__).resolve().parents[1] / "submissions"  # that were validated and merged here
WORSE = 3  # as `hubinit leaderboard compare` ends

Run = Callable[[Sequence[str]], int]


def main() -> int:
    """Refreshes what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", required=True, help="namespace to publish under")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder of the results, kept from one refresh to the next"
    )
    parser.add_argument("--plan", type=Path, default=PLAN, help="file with one `hubinit bench` a line")
    parser.add_argument("--public", action="store_true", help="publish public repositories")
    given = parser.parse_args()
    return refresh(read_plan(given.plan), given.owner, given.out, public=given.public)


def read_plan(path: Path) -> list[list[str]]:
    """The arguments of each line of a plan; `#` begins a comment."""
    lines = [shlex.split(line, comments=True) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def run_hubinit(arguments: Sequence[str]) -> int:
    """Runs a command as a user would, in its own process."""
    print(f"$ hubinit {shlex.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "hubinit.cli", *arguments], check=False).returncode


def refresh(
    plan: Sequence[Sequence[str]],
    owner: str,
    out: Path,
    *,
    public: bool = False,
    submissions: Path = SUBMISSIONS,
    run: Run = run_hubinit,
) -> int:
    """Measures what is missing, builds the leaderboard, publishes it and compares it with the last one.

    Args:
        plan: the arguments of each `hubinit bench`.
        owner: namespace of what is published.
        out: folder that is kept.
        public: whether repositories are public.
        submissions: folder with the results of others, each a folder as `bench --out` writes it.
        run: runs `hubinit` with arguments and returns its exit status.

    Returns:
        The exit status.
    """
    runs, board, last = out / "runs", out / "board", out / "last"
    data_set, seen = f"{owner}/hubinit-leaderboard", ["--public"] if public else []
    failed = [run(["bench", *line, "--push-to", owner, "--out", str(runs), *seen]) for line in plan]
    if board.exists():
        shutil.rmtree(last, ignore_errors=True)
        shutil.copytree(board, last)
    others = [str(path.parent) for path in sorted(submissions.glob("*/runs"))]
    if run(["leaderboard", "build", str(runs), *others, data_set, "--out", str(board)]):
        return 1
    failed.append(run(["leaderboard", "push", str(board), "--to", data_set, *seen]))
    if last.exists():
        failed.append(run(["leaderboard", "compare", str(last), str(board), "--markdown", str(out / "report.md")]))
    return WORSE if last.exists() and failed[-1] == WORSE else 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
