"""What a request expands to, without a Hub: revisions are fixed, models are names only."""

from dataclasses import replace

import pytest

from hubinit import tasks
from hubinit.errors import HubError, HubinitError
from hubinit.methods import METHODS
from hubinit.models import dtype, names
from hubinit.records import Cost, Provenance, ResultStore, RunResult, Score
from hubinit.runs.estimate import from_history, latest
from hubinit.runs.plan import MOST_RUNS, Request, plan
from hubinit.runs.protocol import protocol_names, read_protocol
from hubinit.runs.stored import summarise
from hubinit.runs.sweep import command_line
from hubinit.specs import EvalSpec

PROVENANCE = Provenance(versions={}, hardware={}, command="", created="2026-01-01")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "pin", lambda spec: spec.model_copy(update={"revision": "a" * 40}))
    monkeypatch.setattr(tasks, "pin", lambda name, revision=None: revision or f"{name:0<40}")
    return ResultStore(tmp_path)


def finished(run, evaluations=None, status="ok"):
    scores = tuple(Score(task=e.task, metric="acc", value=0.5, n=1, eval=e) for e in evaluations or run.evaluations)
    return RunResult(key=run.spec.key, spec=run.spec, status=status, scores=scores, provenance=PROVENANCE)


def test_the_command_of_the_mission(store):
    planned = plan(Request(models=("llama3-8b",)), store)
    chosen = [run.spec.method.name for run in planned]
    assert chosen == list(METHODS)
    assert {run.spec.model.id for run in planned} == {"meta-llama/Meta-Llama-3-8B"}
    assert {run.group for run in planned} == {"commonsense"}
    assert all(len(run.evaluations) == 8 for run in planned)
    samples = {run.spec.method.name: run.spec.calibration.samples for run in planned if run.spec.calibration}
    assert samples["filet"] == 320
    assert samples["lora-da"] == 256
    assert samples["lora-ga"] == samples["lora-one"] == 8
    assert planned[0].spec.calibration is None, "weight-only methods must not depend on calibration settings"


def test_full_fine_tuning_is_planned_on_request_without_what_concerns_adapters(store):
    asked = Request(models=("smollm2-135m",), methods=("full", "lora"), tasks=("arc-easy",), rank=4)
    full, lora = plan(asked, store)
    assert (full.spec.rank, full.spec.alpha, full.spec.calibration) == (0, 0, None)
    assert (full.spec.data, full.spec.recipe) == (lora.spec.data, lora.spec.recipe)
    (other, _) = plan(replace(asked, rank=8, overrides=("rslora=true",)), store)
    assert other.spec.key == full.spec.key
    (again, *_) = plan(replace(asked, optimisers=("adamw", "lora+")), store)
    assert again.spec.key == full.spec.key


def gone(spec, *rest):
    raise HubError("Cannot find it: the Hub could not be reached.") from ConnectionError()


def test_a_registered_model_is_planned_without_a_hub_to_look_only(store, monkeypatch):
    monkeypatch.setattr(names, "pin", gone)
    asked, notes = [], []
    monkeypatch.setattr(tasks, "pin", lambda name, revision=None: asked.append(name) or gone(name))
    request = Request(models=("llama3-8b", "mistral-7b"), methods=("lora", "filet"))
    with pytest.raises(HubError, match="could not be reached"):
        plan(request, store)
    planned = plan(request, store, unasked=True, on_note=notes.append)
    assert [(run.spec.model.revision, run.spec.method.name) for run in planned] == [(None, "lora"), (None, "filet")] * 2
    assert all(len(run.evaluations) == 8 for run in planned)
    assert not asked, "a Hub that cannot be reached is not asked eight times more"
    assert [note.split(",")[0] for note in notes] == [
        "Not checked: access to meta-llama/Meta-Llama-3-8B",
        "Not checked: access to mistralai/Mistral-7B-v0.1",
    ]
    with pytest.raises(HubError, match="could not be reached"):
        plan(replace(request, models=("org/unknown",)), store, unasked=True)


def test_vision_models_default_to_one_run_per_image_task(store):
    planned = plan(Request(models=("vit-b32",), methods=("lora",)), store)
    assert [run.group for run in planned] == list(tasks.SUITES["image"])
    assert all(len(run.evaluations) == 1 for run in planned)


def test_the_base_of_an_image_model_is_a_linear_probe_on_the_grid_of_the_others(store):
    request = Request(models=("vit-b32",), methods=("none", "lora"), tasks=("digits",), seeds=(0, 1))
    planned = [run.spec for run in plan(replace(request, learning_rates=(1e-3, 1e-4)), store)]
    grids = {
        name: {(s.learning_rate, s.seed, s.data, s.recipe) for s in planned if s.method.name == name}
        for name in ("none", "lora")
    }
    assert len(planned) == 8
    assert grids["none"] == grids["lora"]
    assert {(s.rank, s.alpha, s.calibration) for s in planned if s.method.name == "none"} == {(0, 0, None)}


def test_every_method_gets_the_same_grid(store):
    request = Request(models=("smollm2-135m",), methods=("lora", "pissa"), seeds=(0, 1), learning_rates=(1e-3, 1e-4))
    planned = plan(Request(**{**vars(request), "tasks": ("arc-easy",)}), store)
    grids = {
        name: {(r.spec.learning_rate, r.spec.seed) for r in planned if r.spec.method.name == name}
        for name in ("lora", "pissa")
    }
    assert len(planned) == 8
    assert grids["lora"] == grids["pissa"]


def test_the_base_runs_once_for_all_groups(store):
    request = Request(models=("smollm2-135m",), methods=("none",), tasks=("arc-easy", "piqa"), seeds=(0, 1))
    (run,) = plan(request, store)
    assert [e.task for e in run.evaluations] == ["arc-easy", "piqa"]


def test_a_rerun_is_free_and_a_new_task_only_scores(store):
    request = Request(models=("smollm2-135m",), methods=("lora",), tasks=("arc-easy",))
    (run,) = plan(request, store)
    assert run.state == "run"
    store.write(finished(run))
    (again,) = plan(request, store)
    assert again.state == "cached"
    (forced,) = plan(request, store, force=True)
    assert forced.state == "run"
    (limited,) = plan(Request(**{**vars(request), "overrides": ("limit=5",)}), store)
    assert limited.state == "evaluate"
    assert limited.missing == (EvalSpec(task="arc-easy", revision=f"{'arc-easy':0<40}", limit=5),)


@pytest.mark.parametrize(("status", "state"), [("failed", "run"), ("diverged", "cached"), ("partial", "cached")])
def test_what_is_tried_again(store, status, state):
    request = Request(models=("smollm2-135m",), methods=("lora",), tasks=("arc-easy",))
    (run,) = plan(request, store)
    store.write(finished(run, status=status))
    assert plan(request, store)[0].state == state


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 4},
        {"seeds": (7,)},
        {"learning_rates": (0.5,)},
        {"calibration_samples": 9},
        {"overrides": ("recipe.steps=3",)},
        {"overrides": ("filet.selection=P",)},
        {"overrides": ("samples=17",)},
        {"models": ("llama3-8b",)},
    ],
)
def test_any_changed_input_is_a_new_run(store, change):
    request = Request(models=("smollm2-135m",), methods=("filet",), tasks=("arc-easy",))
    changed = Request(**{**vars(request), **change})
    assert plan(request, store)[0].spec.key != plan(changed, store)[0].spec.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("llama3-8B",)}, "did you mean llama3-8b"),
        ({"methods": ("filett",)}, "Unknown method 'filett': did you mean filet"),
        ({"tasks": ("arc-esy",)}, "Unknown task 'arc-esy': did you mean arc-easy"),
        ({"tasks": ("digits",)}, "'digits' is a vision task"),
        ({"protocol": "quickstrat"}, "There is not a protocol or YAML file 'quickstrat': did you mean quickstart"),
        ({"overrides": ("rank",)}, "--set wants key=value"),
        ({"overrides": ("recipe.stepz=1",)}, "'recipe.stepz'"),
        ({"overrides": ("recipe.steps=many",)}, "'recipe.steps'"),
        ({"overrides": ("rank=[",)}, r"--set rank=\[ cannot be read: it is not valid YAML"),
        *(
            ({"overrides": (override,)}, f"'{override.split('=')[0]}")
            for override in (
                *("rank=0", "limit=0", "samples=-1", "validation_samples=-1", "eval_batch_size=0", "shots=-1"),
                *("recipe.steps=0", "recipe.epochs=0", "recipe.batch_size=0", "recipe.micro_batch_size=-4"),
                *("recipe.warmup_ratio=1.5", "recipe.weight_decay=-1", "recipe.max_length=0", "recipe.epochs=.nan"),
                *("calibration.max_length=0", "seeds=[-1]", "learning_rates=[.inf]", "alpha=0"),
                *("learning_rates=[1e9]", "learning_rates=[]", "seeds=[]", "calibration.memory_budget=2 tons"),
            )
        ),
        ({"overrides": ("calibration.samples=9",)}, "say calibration_samples instead"),
        ({"overrides": ("recipe.batch_size=6",)}, "batch_size 6 is not a multiple of micro_batch_size 4"),
        ({"overrides": ("recipe.stepz=1",)}, "did you mean steps"),
        ({"optimisers": ("sgdd",)}, "Unknown optimizer 'sgdd'"),
        ({"optimisers": ("lora",)}, "Unknown optimizer 'lora': did you mean lora"),
        ({"overrides": ("optimisers=[]",)}, "'optimisers'"),
        ({"overrides": ("recipe.optimiser=lora+",)}, "say --optimizers"),
        ({"overrides": ("recipe.lora_plus_ratio=4.0",)}, "add lora\\+ to --optimizers"),
        ({"overrides": ("filet.train_a=false",)}, "train with --optimizers frozen-a"),
        ({"methods": ("mica",), "optimisers": ("frozen-a",)}, "'frozen-a' does not fit method 'mica'"),
        ({"methods": ("lora", "dora"), "optimisers": ("adamw", "lora-fa")}, "'lora-fa' does not fit method 'dora'"),
        ({"methods": ("peft:vera",), "optimisers": ("lora+",)}, "'lora\\+' does not fit method 'peft:vera'"),
        (
            {"learning_rates": (1e9,)},
            "'learning_rates.0' of the command is wrong: Input should be less than or equal to 1",
        ),
        ({"seeds": ()}, "'seeds' of the command"),
        ({"overrides": ("recpie.steps=3",)}, "neither a method nor a part of a protocol: did you mean recipe"),
        ({"overrides": ("filett.selection=M",)}, "neither a method nor a part of a protocol: did you mean filet"),
        ({"overrides": ("filet.selektion=M",)}, "selektion"),
    ],
)
def test_mistakes_are_named(store, change, message):
    request = Request(models=("smollm2-135m",), methods=("filet",), tasks=("arc-easy",))
    with pytest.raises(HubinitError, match=message):
        plan(Request(**{**vars(request), **change}), store)


def test_optimisers_are_an_axis_and_the_default_one_changes_no_key(store):
    request = Request(models=("smollm2-135m",), methods=("none", "lora", "pissa"), tasks=("arc-easy",))
    plain = plan(request, store)
    planned = plan(replace(request, optimisers=("adamw", "lora+", "riemannian")), store)
    found = [(run.spec.method.name, run.spec.recipe and run.spec.recipe.optimiser) for run in planned]
    assert found == [
        ("none", None),
        *((method, optimiser) for method in ("lora", "pissa") for optimiser in ("adamw", "lora+", "riemannian")),
    ]
    assert {run.spec.key for run in plain} < {run.spec.key for run in planned}
    assert len({run.spec.key for run in planned}) == 7


def test_a_setting_of_one_optimiser_is_in_its_runs_only(store):
    request = Request(models=("smollm2-135m",), methods=("lora",), tasks=("arc-easy",), optimisers=("adamw", "lora+"))
    before = plan(request, store)
    after = plan(replace(request, overrides=("recipe.lora_plus_ratio=4.0",)), store)
    assert before[0].spec.key == after[0].spec.key
    assert before[1].spec.key != after[1].spec.key
    assert after[1].spec.recipe.optimiser_label == "lora+ lora_plus_ratio=4.0"


def test_of_all_methods_those_that_an_optimiser_does_not_fit_are_left_out_aloud(store):
    notes = []
    request = Request(models=("smollm2-135m",), tasks=("arc-easy",), optimisers=("adamw", "lora-fa"))
    planned = plan(request, store, on_note=notes.append)
    trained = {
        optimiser: {run.spec.method.name for run in planned if run.spec.recipe.optimiser == optimiser}
        for optimiser in ("adamw", "lora-fa")
    }
    assert trained["adamw"] - trained["lora-fa"] == {"dora", "mica", "kasa", "neat"}
    assert [note.split("'")[3] for note in notes] == ["dora", "mica", "kasa", "neat"]


def test_overrides_reach_every_level():
    protocol = read_protocol(
        "default", ["rank=4", "recipe.steps=7", "lora-da.preset=paper", "recipe.weight_decay=1e-2"]
    )
    assert (protocol.rank, protocol.recipe.steps, protocol.recipe.weight_decay) == (4, 7, 0.01)
    assert protocol.methods == {"lora-da": {"preset": "paper"}}


def test_a_protocol_may_be_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("rank: 3\nlearning_rates: [1.0e-3, 1.0e-4]\n")
    assert read_protocol(str(tmp_path / "mine.yaml")).learning_rates == (1e-3, 1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- rank: 3\n", "mine.yaml' is not a mapping"),
        (b"sixteen", "mine.yaml' is not a mapping"),
        (b"rank: \xff\n", "mine.yaml' is not UTF-8"),
        (b"rank: [\n", "mine.yaml' cannot be read: it is not valid YAML"),
        (b"recipe: 3\n", "'recipe'"),
    ],
)
def test_a_protocol_that_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(HubinitError, match=message):
        read_protocol(str(tmp_path / "mine.yaml"))


def test_the_estimate_follows_the_latest_run_and_counts_what_is_left(store):
    request = Request(models=("smollm2-135m",), methods=("filet",), tasks=("arc-easy",), overrides=("limit=10",))
    (run,) = plan(request, store)

    def took(seconds, created):  # nothing scored yet: scoring costs nothing known
        stages = dict.fromkeys(("load", "calibrate", "initialise", "train"), Cost(seconds=seconds))
        provenance = PROVENANCE.model_copy(update={"created": created})
        return finished(run).model_copy(update={"costs": stages, "provenance": provenance, "scores": ()})

    history = [took(5.0, "2026-03-01T00:00:00+00:00"), took(1.0, "2026-02-01T00:00:00+00:00")]
    history = latest(map(summarise, history))
    assert from_history(run, history) == pytest.approx(20.0)  # load, calibrate, initialise, train
    trained = replace(run, stored=finished(run).model_copy(update={"scores": ()}))
    assert trained.state == "evaluate"
    assert from_history(trained, history) == pytest.approx(5.0)  # load


def test_a_model_that_cannot_be_had_costs_its_own_runs_only(store, monkeypatch):
    def pin(spec):
        if "Llama" in spec.id:
            raise HubError(f"Cannot find {spec.id}: access to it is gated.")
        return spec.model_copy(update={"revision": "a" * 40})

    monkeypatch.setattr(names, "pin", pin)
    lost = []
    request = Request(models=("llama3-8b", "smollm2-135m"), methods=("lora",), tasks=("arc-easy",))
    (run,) = plan(request, store, on_lost=lost.append)
    assert "SmolLM2" in run.spec.model.id
    assert lost == ["Cannot find meta-llama/Meta-Llama-3-8B: access to it is gated."]
    with pytest.raises(HubError, match="gated"):
        plan(Request(models=("llama3-8b",), methods=("lora",)), store)


def test_the_floating_point_type_is_chosen_once_and_named(store, monkeypatch):
    request = Request(models=("smollm2-135m",), methods=("lora",), tasks=("arc-easy",))
    monkeypatch.setattr(dtype, "bfloat16_is_fast", lambda: True)
    (fast,) = plan(request, store)
    monkeypatch.setattr(dtype, "bfloat16_is_fast", lambda: False)
    (slow,) = plan(request, store)
    (asked,) = plan(replace(request, dtype="bfloat16"), store)
    assert (fast.spec.model.dtype, slow.spec.model.dtype) == ("bfloat16", "float32")
    assert fast.spec.key == asked.spec.key != slow.spec.key


def test_one_set_of_tasks_to_train_on_and_another_to_score_on(store):
    request = Request(models=("smollm2-135m",), methods=("lora",), tasks=("arc-easy",))
    (run,) = plan(request, store)
    (wider,) = plan(replace(request, eval_tasks=("arc-easy", "piqa", "gsm8k")), store)
    assert wider.spec.key == run.spec.key, "what it is scored on does not change what is trained"
    assert [e.task for e in wider.evaluations] == ["arc-easy", "piqa", "gsm8k"]
    with pytest.raises(HubinitError, match="'digits' is a vision task"):
        plan(replace(request, eval_tasks=("digits",)), store)
    with pytest.raises(HubinitError, match="head with the classes of 'digits' can be scored on 'digits' only"):
        plan(Request(models=("vit-b32",), methods=("lora",), tasks=("digits",), eval_tasks=("dtd",)), store)


def test_what_is_asked_twice_is_planned_once_and_named_once(store):
    request = Request(models=("smollm2-135m",), methods=("none", "lora", "lora"), tasks=("arc-easy", "arc-easy"))
    planned = plan(replace(request, seeds=(0, 0)), store)
    assert [run.spec.method.name for run in planned] == ["none", "lora"]
    assert {run.group for run in planned} == {"arc-easy"}


def test_a_plan_that_is_too_large_is_refused_at_once(store):
    request = Request(
        models=("smollm2-135m",), methods=("lora",), tasks=("arc-easy",), seeds=tuple(range(MOST_RUNS + 1))
    )
    with pytest.raises(HubinitError, match=r"100,001 runs .* at most"):
        plan(request, store)


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_that_hubinit_ships_reads(name):
    protocol = read_protocol(name)
    assert protocol.description
    assert protocol.source


def test_released_scalings_are_values_of_a_protocol(store):
    for name, gamma in (("lora-ga", 64), ("lora-one", 128)):
        request = Request(models=("llama3-8b",), methods=(name,), tasks=("gsm8k",), protocol=f"{name}-math")
        (run,) = plan(request, store)
        method = METHODS[name]
        assert method.options(**run.spec.method.options).gamma == gamma
        assert (run.spec.rslora, run.spec.rank, run.spec.alpha) == (True, 8, 16)


def test_stored_commands_name_no_folder_of_this_machine(monkeypatch):
    arguments = [
        "init",
        "/home/x/model",
        "--out",
        "/home/x/runs",
        "--out=/home/x/runs",
        "--data=own.jsonl",
        "--set",
        "a=b",
    ]
    monkeypatch.setattr("sys.argv", ["/usr/bin/hubinit", *arguments, "--hub=https://ann:secret@hub.test"])
    kept = "hubinit init model --out runs --out=runs --data=own.jsonl --set a=b --hub=https://hub.test"
    assert command_line() == kept


def test_a_task_without_training_data_is_only_scored(store):
    with pytest.raises(HubinitError, match="'humaneval' has no training data"):
        plan(Request(models=("smollm2-135m",), methods=("none", "lora"), tasks=("humaneval",)), store)
    for methods, trained in ((("none",), "humaneval"), (("none", "lora"), "mbpp")):
        request = Request(models=("smollm2-135m",), methods=methods, tasks=(trained,), eval_tasks=("humaneval",))
        assert {run.evaluations[0].task for run in plan(request, store)} == {"humaneval"}
