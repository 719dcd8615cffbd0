"""`make refresh-local`: the scheduled refresh on this machine, with a tiny model on an embedded Hub of its own, three times.

The first refresh publishes one method; the second must change nothing; the third has one method more and must add only that.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from refresh import Run, refresh, run_hubinit  # noqa: E402

if TYPE_CHECKING:
    from hubinit.devhub.store import Store

OWNER, MODEL = "local", "tiny/refresh"
BENCH = (
    f"--protocol quickstart --models {MODEL} --tasks arc-easy --dtype float32 --rank 2 --set recipe.steps=2"
    " --set samples=16 --set validation_samples=4 --calibration-samples 4"
).split()
FIRST, GROWN = "lora", "lora,pissa"


def main() -> int:
    """Plays three refreshes in a temporary folder, and says what each changed."""
    from hubinit.devhub.server import running

    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "hub") as hub:
        os.environ |= {**hub.environment, "HF_HOME": f"{folder}/hf", "HUBINIT_HOME": f"{folder}/home"}
        os.environ["HUBINIT_ALLOW_DRIFT"] = "1"  # the tiny ARC-Easy is not the real one
        seed(hub.store, Path(folder))
        play(hub.store, Path(folder) / "refresh")
    return 0


def seed(store: "Store", folder: Path) -> None:
    """Puts a tiny model and a tiny ARC-Easy on the Hub."""
    from tests import texts

    model, data = texts.save_model(folder / "model"), texts.save_arc(folder / "arc", train=40, test=12)
    for kind, name, source in (("model", MODEL, model), ("dataset", "allenai/ai2_arc", data)):
        files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
        store.create_repo(kind, name)
        store.commit(kind, name, files, message="seed", author="seed")


def play(store: "Store", out: Path, run: Run = run_hubinit, owner: str = OWNER) -> None:
    """Refreshes three times and checks what each did.

    Raises:
        AssertionError: a refresh did something else than it must.
    """
    states = []
    for methods in (FIRST, FIRST, GROWN):
        code = refresh([[*BENCH, "--methods", methods]], owner, out, run=run)
        assert code == 0, f"the refresh ended with {code}"
        states.append((heads(store, owner), contents(out / "runs" / "runs"), contents(out / "board")))
    (hub_1, runs_1, board_1), (hub_2, runs_2, board_2), (hub_3, runs_3, board_3) = states
    assert (hub_1, runs_1, board_1) == (hub_2, runs_2, board_2), "the second refresh changed something"
    print(f"The second refresh changed nothing: {len(hub_1)} repositories, {len(runs_1)} files of results.")
    assert {name: head for name, head in hub_3.items() if name in hub_1 and head != hub_1[name]}.keys() == {
        f"dataset {owner}/hubinit-leaderboard"
    }, "the third refresh changed a repository of the methods before"
    assert runs_1.items() <= runs_3.items(), "the third refresh changed a finished run"
    added = hub_3.keys() - hub_1.keys()
    assert added and all("pissa" in name for name in added), added
    assert board_3 != board_1
    print(f"The third added only pissa: {', '.join(sorted(added))}; the leaderboard has its rows.")


def heads(store: "Store", owner: str) -> dict[str, str]:
    """The commit at the tip of each repository of an owner."""
    repos = [repo for kind in ("model", "dataset") for repo in store.repos(kind)]
    return {f"{repo.type} {repo.id}": repo.head for repo in repos if repo.owner == owner}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of data, by its path: logs and what only this machine keeps are left out."""
    kept = (".json", ".parquet", ".jsonl", ".safetensors")
    paths = [path for path in folder.rglob("*") if path.suffix in kept and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths) if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
