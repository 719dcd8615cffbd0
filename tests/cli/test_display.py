"""The live table: what goes on is always on the screen, however many runs there are."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from hubinit.cli.display import SweepDisplay, run_cells
from hubinit.runs.job import Event, Finished, Progress, Started
from hubinit.runs.plan import PlannedRun
from hubinit.runs.tally import Tally
from hubinit.specs import MethodSpec, ModelSpec, Recipe, RunSpec


def runs(number: int) -> list[PlannedRun]:
    specs = [
        RunSpec(
            model=ModelSpec(id="org/base"), method=MethodSpec(name="lora"), rank=2, alpha=4, seed=seed, recipe=Recipe()
        )
        for seed in range(number)
    ]
    return [PlannedRun(spec, "arc-easy", ()) for spec in specs]


def shown(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_running_run_is_on_the_screen_and_all_are_counted(width: int) -> None:
    planned = runs(500)
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, color_system=None)
    tally = Tally(planned)
    display = SweepDisplay(tally, console)
    for run in planned[:300]:
        tally(Finished(key=run.spec.key, status="ok"))
    tally(Finished(key=planned[300].spec.key, status="failed", reason="a gate " + 30 * "and more "))
    tally(Started(key=planned[301].spec.key, place="GPU 3"))
    tally(Progress(key=planned[301].spec.key, stage="train", step=3, steps=9, loss=1.5))
    console.print(display._table())
    lines = shown(console)
    assert lines[0].strip() == "base, lora r2, arc-easy, lr 0", "what is the same in all is said once"
    assert lines[1].split() == ["key", "seed", "where", "time", "state"]
    assert lines[2].split() == [planned[301].spec.key[:8], "301", "GPU", "3", "0:00", "train", "3/9", "loss", "1.500"]
    assert lines[3].split()[:5] == [planned[300].spec.key[:8], "300", "failed:", "a", "gate"]
    assert len(lines) <= 19
    assert lines[-1].startswith("0:00: 1 running, 300 done, 1 failed, 198 left")


def test_an_optimiser_that_is_not_the_default_is_beside_the_method() -> None:
    (run,) = runs(1)
    shown = [
        run_cells(replace(run, spec=run.spec.model_copy(update={"recipe": recipe})))[1]
        for recipe in (Recipe(), Recipe(optimiser="lora-fa"), Recipe(optimiser="lora+", lora_plus_ratio=4))
    ]
    assert shown == ["lora r2", "lora r2 lora-fa", "lora r2 lora+ lora_plus_ratio=4.0"]


def test_without_a_terminal_each_stage_is_a_line_and_a_long_one_a_line_each_minute() -> None:
    planned, times = runs(2), iter(range(0, 10_000, 25))
    console = Console(file=io.StringIO(), width=50)
    tally = Tally(planned, now=lambda: 0.0)
    key = planned[0].spec.key
    with SweepDisplay(tally, console) as display:

        def tell(event: Event) -> None:
            time = float(next(times))
            tally.now = display._pace.now = lambda: time
            tally(event)
            display(event)

        for step in range(1, 6):  # at 0, 25, 50, 75 and 100 s
            tell(Progress(key=key, stage="train", step=step, steps=5, loss=0.5))
        tell(Finished(key=key, status="ok"))
        tell(Progress(key="of another sweep", stage="train"))
    assert shown(console) == [
        f"   0:00 {key[:8]} base lora r2 arc-easy 0 seed 0 train 1/5 loss 0.500",
        f"   1:15 {key[:8]} base lora r2 arc-easy 0 seed 0 train 4/5 loss 0.500",
        f"   2:05 {key[:8]} base lora r2 arc-easy 0 seed 0 ok (0 running, 1 done, 1 left, about 2 min to go)",
    ]
