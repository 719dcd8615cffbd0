"""The stages of `gpu.py`: what each runs, what it needs, and its part of the time. Data, no code.

In a command, {seconds} is most of the stage's time; a stage that takes it ends by itself and writes what it has.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Imported by hubinit wherever it computes; a test compares these with what the files really import.
CORE = (
    "accelerate detect_secrets huggingface_hub markupsafe numpy peft psutil pydantic safetensors scipy tenacity threadpoolctl "
    "torch transformers yaml "
)
# Language tasks, for training as for scoring, and what lm-eval itself imports.
TASKS = CORE + "datasets dill filelock httpx2 lm_eval multiprocess pandas pyarrow requests sacrebleu xxhash "
FROM_HUB = ("smollm2-135m", "arc")


@dataclass(frozen=True)
class Stage:
    """One process under a time limit.

    Attributes:
        name: in the record, and of its log.
        weight: its part of the time.
        command: words with {python}, {device}, {out}, {work}, {workers} and {seconds}.
        modules: top-level modules that it imports and that may be missing, as words.
        seeds: what must be on the embedded Hub.
        files: of the checkout, that must be there.
        least: seconds below which it is not worth starting.
        prints: whether what it prints is its result.
    """

    name: str
    weight: float
    command: str
    modules: str = CORE
    seeds: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    least: float = 10.0
    prints: bool = False


def script(name: str, sizes: str = "") -> str:
    """The command of a script of this folder that measures something."""
    return f"{{python}} benchmarks/{name} --device {{device}} --out {{out}} --seconds {{seconds}} {sizes}"


def gpu_tests() -> Stage:
    """The tests marked `gpu`; only files that hold some are collected, because collecting imports them."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path.relative_to(ROOT).as_posix() for path in tests if "mark.gpu" in path.read_text(encoding="utf-8")]
    command = "{python} -m pytest -m gpu -p no:cacheprovider --junitxml {out}/gpu-tests.xml " + " ".join(marked)
    return Stage("tests", 60, command, CORE + "hypothesis pytest pytest_timeout")


def init_time(shape: str, weight: float, sizes: str) -> Stage:
    """What the initialisations cost on the shape of one model, with random weights."""
    return Stage(f"init-{shape}", weight, script("init_time.py", f"--shape {shape} {sizes}"), least=20)


def scoring(weight: float, sizes: str = "") -> Stage:
    """Questions scored per second."""
    return Stage("scoring", weight, script("scoring_speed.py", sizes), TASKS, FROM_HUB)


def train_step(weight: float, sizes: str) -> Stage:
    """The speed of a training step, method by method."""
    return Stage("train-step", weight, script("train_step.py", sizes), files=("benchmarks/train_step.py",))


def study(weight: float, sizes: str = "") -> Stage:
    """Methods × learning rates × seeds on SmolLM2-135M, as many runs as fit."""
    command = (
        "{python} benchmarks/gpu_study.py --out {out} --work {work}/study --workers {workers} --seconds {seconds} "
    )
    return Stage("study", weight, command + sizes, TASKS, FROM_HUB, least=30)


RANKING = Stage(
    "ranking",
    30,
    "{python} -m hubinit.cli leaderboard --out {out}",
    "jinja2 pandas pydantic rich typer yaml",
    prints=True,
)
# The shortest first: a command that is cut off has lost the least.
STAGES: dict[str, tuple[Stage, ...]] = {
    "bench": (
        gpu_tests(),
        scoring(45),
        train_step(70, "--shape llama3.2-1b --batch-size 8 --length 512 --rounds 3"),
        init_time("llama3.2-1b", 80, "--tokens 32768 --batch-size 16 --compare-tokens 8192 --limit 10"),
        init_time("llama3.2-3b", 100, "--tokens 32768 --batch-size 16 --compare-tokens 8192 --limit 10"),
        init_time("llama3-8b", 140, "--tokens 16384 --batch-size 8 --rounds 2 --limit 15"),
    ),
    "study": (study(500), RANKING),
}
TINY = "--tokens 256 --compare-tokens 128 --length 64 --batch-size 2 --rank 4 --rounds 1"
REHEARSED: dict[str, tuple[Stage, ...]] = {
    "bench": (
        gpu_tests(),
        scoring(60, "--questions 8 --batch-sizes 4 --shape tiny"),
        train_step(60, "--shape tiny --rounds 1 --methods lora,pissa --length 32"),
        init_time("tiny", 60, TINY),
    ),
    "study": (study(100, "--rehearse"), RANKING),
}
