"""Puts a folder together that is the Space as it is: the app, its card and requirements, and hubinit's sources that it imports.

    python leaderboard/assemble.py --out build/space [--leaderboard owner/name | --board FOLDER]

The package as a whole needs torch; the leaderboard does not, so the Space carries these files instead of the package.
"""

import argparse
import re
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "hubinit"
SOURCES = (  # of hubinit, files and folders; tests/leaderboard_app imports them with nothing else of it there
    *("__init__.py", "py.typed", "errors.py", "paths.py", "records.py", "specs.py", "text.py"),
    *("leaderboard", "models/__init__.py", "models/kinds.py", "registry/models.yaml", "registry/reported.csv"),
)
FILES = ("app.py", "README.md", "requirements.txt")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def main() -> None:
    """Assembles the folder and says what is next."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the Space; emptied first")
    parser.add_argument("--leaderboard", help="the data set that it shows (owner/name)")
    parser.add_argument(
        "--board", type=Path, help="or a folder that `hubinit leaderboard build` wrote, which it carries"
    )
    options = parser.parse_args()
    if options.leaderboard and not REPO_ID.fullmatch(options.leaderboard):
        parser.error(f"--leaderboard wants owner/name, not '{options.leaderboard}'")
    assemble(options.out, options.leaderboard, options.board)
    print(f"{options.out}: try it with `pip install -r requirements.txt && python app.py` there.")


def assemble(out: Path, leaderboard: str | None = None, board: Path | None = None) -> None:
    """Writes the folder of the Space.

    Args:
        out: made anew; a folder that is not a Space's stays as it is.
        leaderboard: the data set that it shows.
        board: or a built leaderboard, which it carries.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / "app.py").is_file():
            raise SystemExit(f"error: {out} holds something else; give an empty folder.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(HERE / name, out / name)
    for name in SOURCES:
        source, target = PACKAGE / name, out / "hubinit" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    if leaderboard:
        app = (out / "app.py").read_text("utf-8")
        (out / "app.py").write_text(app.replace('"board")', f'"{leaderboard}")'), "utf-8")
    if board:
        (out / "board").mkdir()
        for path in sorted(board.glob("[a-z]*")):
            shutil.copy(path, out / "board" / path.name)


if __name__ == "__main__":
    main()
