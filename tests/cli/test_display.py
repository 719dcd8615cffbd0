"""The live table: what goes on is always on the screen, however many runs there are."""

import io
from dataclasses import replace

from rich.console import Console

from hubinit.cli.display import SweepDisplay, run_cells
from hubinit.runs.job import Finished, Progress
from hubinit.runs.plan import PlannedRun
from hubinit.specs import MethodSpec, ModelSpec, Recipe, RunSpec


def runs(number: int) -> list[PlannedRun]:
    specs = [
        RunSpec(model=ModelSpec(id="org/base"), method=MethodSpec(name="lora"), rank=2, alpha=4, seed=seed)
        for seed in range(number)
    ]
    return [PlannedRun(spec, "arc-easy", ()) for spec in specs]


def test_the_running_run_is_on_the_screen_and_all_are_counted() -> None:
    planned = runs(500)
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=20, color_system=None)
    display = SweepDisplay(planned, console)
    for run in planned[:300]:
        display(Finished(key=run.spec.key, status="ok"))
    display(Finished(key=planned[300].spec.key, status="failed", reason="a gate"))
    display(Progress(key=planned[301].spec.key, stage="train", step=3, steps=9))
    console.print(display._table())
    printed = console.file.getvalue()
    assert printed.splitlines()[1].split()[-3:] == ["301", "train", "3/9"]
    assert "seed 300  failed: a gate" in printed.splitlines()[2]
    assert len(printed.splitlines()) <= 20
    assert "198 waiting" in printed
    assert "300 ok" in printed
    assert "1 running" in printed


def test_an_optimiser_that_is_not_the_default_is_beside_the_method() -> None:
    (run,) = runs(1)
    shown = [
        run_cells(replace(run, spec=run.spec.model_copy(update={"recipe": recipe})))[1]
        for recipe in (Recipe(), Recipe(optimiser="lora-fa"), Recipe(optimiser="lora+", lora_plus_ratio=4))
    ]
    assert shown == ["lora r2", "lora r2 lora-fa", "lora r2 lora+ lora_plus_ratio=4.0"]


def test_without_a_terminal_each_stage_is_one_line() -> None:
    (run,) = runs(1)
    console = Console(file=io.StringIO(), width=120)
    with SweepDisplay([run], console) as display:
        for step in (1, 2, 3):
            display(Progress(key=run.spec.key, stage="train", step=step, steps=3, loss=0.5))
        display(Finished(key=run.spec.key, status="ok"))
    lines = console.file.getvalue().splitlines()
    assert [line.split(" seed 0 ")[1] for line in lines] == ["train 1/3 loss 0.500", "ok"]
