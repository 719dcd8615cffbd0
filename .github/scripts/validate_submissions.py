"""Validates each folder `submissions/NAME` that a pull request changes, and writes one verdict about all of them.

    python .github/scripts/validate_submissions.py BASE VERDICT.md [--against OWNER/LEADERBOARD]

Exit status: 0 when all are accepted, 3 when one is not, 1 when one could not be checked.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

FOLDER = "submissions"
LONGEST = 60_000  # characters of a verdict; a comment takes 65,536

Run = Callable[[Sequence[str]], int]


def main() -> int:
    """Validates what changed since BASE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="commit that the pull request goes to")
    parser.add_argument("verdict", type=Path, help="Markdown file to write")
    parser.add_argument("--against", default="", help="leaderboard that must not be contradicted; empty for none")
    given = parser.parse_args()
    return validate(changed(given.base, Path()), Path(), given.verdict, against=given.against)


def changed(base: str, root: Path) -> list[str]:
    """What differs from a commit in the folder of submissions, by name."""
    command = ["git", "diff", "--name-only", "--no-renames", "-z", f"{base}...HEAD", "--", FOLDER]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    parts = [PurePosixPath(path).parts for path in done.stdout.split("\0") if path]
    return sorted({part[1] for part in parts})


def run_hubinit(arguments: Sequence[str]) -> int:
    """Runs a command; its output goes to the log."""
    return subprocess.run([sys.executable, "-m", "hubinit.cli", *arguments], check=False).returncode


def validate(names: Sequence[str], root: Path, verdict: Path, *, against: str = "", run: Run = run_hubinit) -> int:
    """Writes the verdict on each submission.

    Args:
        names: of the folders below `submissions/`; anybody may have chosen them.
        root: of the checkout.
        verdict: file to write.
        against: leaderboard that must not be contradicted; empty for none.
        run: runs `hubinit` with arguments and returns its exit status.

    Returns:
        The exit status: the worst of all.
    """
    texts, codes = [], [0]
    for name in names:
        folder = root / FOLDER / name
        if not folder.is_symlink() and not folder.is_dir():
            continue  # taken back, or a README
        shown = "".join(character if character.isalnum() or character in "-_." else "?" for character in name)[:100]
        if folder.is_symlink():
            texts.append(f"`{shown}` is a link.")
            codes.append(3)
            continue
        with tempfile.TemporaryDirectory() as place:
            report = Path(place) / "verdict.md"
            arguments = ["leaderboard", "validate", f"./{folder.as_posix()}", "--markdown", str(report)]
            code = run([*arguments, *(["--against", against] if against else [])])
            found = report.read_text(encoding="utf-8") if report.exists() else "It could not be checked; see the log."
        texts.append(f"### `{shown}`\n\n{found}")
        codes.append(code if code in (0, 3) else 1)
    text = "\n\n".join(texts) or "There is nothing to validate."
    verdict.write_text(text[:LONGEST] + ("\n\n… cut" if len(text) > LONGEST else "") + "\n", encoding="utf-8")
    return 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
