"""The tables as people see them: readable at every width, and each number with the meaning its heading gives it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hubinit.leaderboard.boards import boards
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.render import Terminal, markdown
from hubinit.leaderboard.table import failures, table
from hubinit.records import Manifest, read_result
from hubinit.specs import EvalSpec, ModelSpec
from tests.leaderboard.test_ranking import run

METHODS = (
    *("none", "lora", "pissa", "milora", "olora", "orthogonal", "dora", "corda"),
    *("eva", "filet", "lora-da", "lora-ga", "lora-one", "mica", "neat", "lora-dash"),
)
TASKS = ("arc-challenge", "arc-easy", "boolq", "hellaswag", "openbookqa", "piqa", "siqa", "winogrande")


def printed(results, width: int) -> str:
    runs = table(results)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(Terminal(rank(runs), failures(runs)))
    return console.export_text()


def column(results, name: str):
    [board] = boards(rank(table(results)))
    [found] = [column for column in board.columns if column.name == name]
    return found


@pytest.mark.parametrize("width", [60, 80, 120, 150])
def test_sixteen_methods_and_eight_sets_are_whole_at_every_width(width):
    results = [
        run(method, seed=seed, value=0.5 + seed / 100, loss=None if method == "none" else 1.0, tasks=TASKS)
        for method in METHODS
        for seed in range(1 if method == "none" else 3)
    ]
    text = printed(results, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    blocks = text.count("│ pissa ")
    assert all(text.count(f"│ {method} ") == blocks for method in METHODS), "every block names every method"
    for task in TASKS:
        assert sum(f" {task} " in line for line in lines if line.startswith("┃")) == 1, task
    assert text.count("51.0 ± 1.0") == 15 * len(TASKS), "no score is cut"
    error = 100 * results[0].scores[0].stderr / len(TASKS) ** 0.5
    assert text.count(f" 51.0 ± {error:.1f} │") == 15, "the mean, with the error of all sets together"


def test_plus_minus_means_one_thing_in_a_column():
    several = [run(method, seed=seed, value=0.5 + seed / 50) for method in ("lora", "pissa") for seed in range(3)]
    found = column([*several, run("none", value=0.4)], "arc-easy")
    assert found.error == "± seeds"
    assert [cell.text for cell in found.cells] == ["52.0 ± 2.0", "52.0 ± 2.0", "40.0"], "one run has no spread"
    mixed = column([*several, run("filet", value=0.6)], "arc-easy")
    assert mixed.error == "± sampling"
    assert [cell.text for cell in mixed.cells] == ["60.0 ± 5.0", "52.0 ± 5.0", "52.0 ± 5.0"]
    text = markdown(rank(table([*several, run("filet", value=0.6)])))
    assert "| arc-easy (± sampling) | vs lora (± both) |" in text
    assert "± sampling: the standard error of the scored examples" in text


def test_validation_loss_and_dtype_are_shown():
    spec = ModelSpec(id="org/model", revision="a" * 40, dtype="bfloat16")
    results = [run("lora", loss=3.279, model_spec=spec), run("pissa", loss=3.017, seed=0), run("none", model_spec=spec)]
    found = list(boards(rank(table([one for one in results if one.spec.model == spec]))))
    assert [board.title.split(", ")[1] for board in found] == ["bfloat16"]
    [loss] = [c for c in found[0].columns if c.name == "val. loss"]
    assert dict(zip(found[0].labels, (cell.text for cell in loss.cells), strict=True)) == {
        "lora": "3.2790", "none": "–"
    }  # fmt: skip
    assert len(list(boards(rank(table(results))))) == 2, "a base in another dtype is another table"


def test_modules_without_an_adapter_and_runs_without_a_score_are_named_below_the_table():
    eva = run("eva").model_copy(update={"left_out": {"layers.0.mlp": "rank 0", "layers.1.mlp": "rank 0"}})
    [board] = boards(rank(table([run(), eva, run("pissa"), run("pissa", seed=1, value=None)])))
    assert "Modules left without an adapter: eva 2." in board.note
    assert "Runs without a score: pissa 1." in board.note
    [other] = boards(rank(table([run()])))
    assert "adapter" not in other.note


def test_evaluations_on_other_test_examples_are_not_mixed():
    whole, part = run(value=0.5), run("pissa", value=0.9)
    score = part.scores[0].model_copy(update={"eval": EvalSpec(task="arc-easy", limit=10)})
    found = list(boards(rank(table([whole, part.model_copy(update={"scores": (score,)})]))))
    assert [(board.title.rsplit(", ", 1)[1], board.labels) for board in found] == [
        ("the first 10 test examples", ("pissa",)), ("all test examples", ("lora",))
    ]  # fmt: skip


ALONE = """
import sys
for name in ("torch", "transformers", "peft"):
    sys.modules[name] = None  # an import of it raises
from rich.console import Console
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.render import Terminal, markdown
from hubinit.leaderboard.table import failures, table
from hubinit.records import ResultStore
from pathlib import Path
results = list(ResultStore(Path(sys.argv[1])).results(print))
runs = table(results)
Console(width=100).print(Terminal(rank(runs), failures(runs)))
print(markdown(rank(runs)))
assert not any(name.startswith("hubinit.hub") for name in sys.modules)
"""


def test_ranking_needs_no_torch_transformers_or_peft_and_skips_what_it_cannot_read(tmp_path):
    from hubinit.records import ResultStore

    store = ResultStore(tmp_path)
    for method, value in (("lora", 0.4), ("pissa", 0.6)):
        store.write(run(method, value=value))
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "result.json").write_text("{")
    done = subprocess.run([sys.executable, "-c", ALONE, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("│ pissa") < done.stdout.index("│ lora")
    assert "broken" in done.stdout


def test_results_of_version_0_1_rank_and_are_shown(tmp_path):
    stored = Path(__file__).parents[1] / "stored" / "v0.1"
    results = [read_result(path) for path in sorted(stored.glob("*.json"))]
    assert len(results) >= 6
    text = printed(results, 100)
    assert all(f"│ {result.spec.method.name} " in text for result in results if result.scores)
    manifest = {"kind": "trained", "result": json.loads(min(stored.glob("*.json")).read_text()), "files": {}}
    assert Manifest.model_validate(manifest).start is None


def test_a_missing_mean_and_trained_test_items_are_said_below():
    whole, part = run("lora", tasks=("arc-easy", "piqa")), run("pissa", tasks=("arc-easy",))
    scores = tuple(
        score.model_copy(update={"contaminated": 15 if score.task == "piqa" else 0}) for score in whole.scores
    )
    results = [whole.model_copy(update={"scores": scores}), part]
    [board] = boards(rank(table(results)))
    [mean] = [column for column in board.columns if column.name == "mean"]
    assert [cell.text for cell in mean.cells] == [f"50.0 ± {5 / 2**0.5:.1f}", "–"]
    assert "No mean where a task has no score." in board.note
    assert "Test items in the training data: piqa 15." in board.note
    [board] = boards(rank(table([whole])))
    assert "No mean" not in board.note
    assert "Test items" not in board.note
