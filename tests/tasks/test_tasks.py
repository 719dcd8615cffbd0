from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lm_eval.tasks
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import HfApi
from lm_eval.tasks._yaml_loader import load_yaml
from PIL import Image

from hubinit import tasks
from hubinit.data.encode import Example, ImageExample
from hubinit.errors import HubError, HubinitError
from hubinit.specs import DataSpec
from hubinit.tasks import harness
from tests.texts import SHARED, save_arc, save_dataset, save_gsm8k

LANGUAGE = [task for task in tasks.TASKS.values() if task.harness]


@pytest.fixture
def arc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ARC-Easy with 12 training questions in a local folder."""
    task = replace(tasks.get("arc-easy"), dataset=str(save_arc(tmp_path / f"{tmp_path.name}-arc", train=12)))
    monkeypatch.setitem(tasks.TASKS, "arc-easy", task)


@pytest.fixture
def gsm8k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(tasks.get("gsm8k"), dataset=str(save_gsm8k(tmp_path / f"{tmp_path.name}-gsm8k", train=6)))
    monkeypatch.setitem(tasks.TASKS, "gsm8k", task)


@pytest.mark.parametrize("task", LANGUAGE, ids=lambda task: task.name)
def test_language_tasks_are_those_of_lm_eval(task: tasks.Task) -> None:
    definition = load_yaml(Path(lm_eval.tasks.__file__).parent / task.definition, resolve_func=False)
    assert (definition["task"], definition["dataset_path"], definition["dataset_name"]) == (
        task.harness,
        task.dataset,
        task.config,
    )
    assert definition["training_split"] == task.train_split
    assert (definition.get("test_split") or definition["validation_split"]) == task.test_split
    metric, rule = task.primary.split(",")
    assert metric in {entry["metric"] for entry in definition["metric_list"]}
    assert rule in {entry["name"] for entry in definition.get("filter_list", [{"name": "none"}])}


def test_suites_hold_known_tasks_of_one_kind() -> None:
    assert len(tasks.members("commonsense")) == 8
    assert len(tasks.members("image")) == 7
    assert {"fashion-mnist", "digits", "cifar10"} <= {
        name for name, task in tasks.TASKS.items() if task.kind == "vision"
    }
    assert tasks.members("gsm8k") == ("gsm8k",)
    for members in tasks.SUITES.values():
        assert len({tasks.get(name).kind for name in members}) == 1
    assert not set(tasks.SUITES) & set(tasks.TASKS)


def test_no_task_is_scored_on_what_it_trains_on() -> None:
    assert all(task.train_split != task.test_split for task in tasks.TASKS.values())


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(HubinitError, match="Unknown task 'arc-esay': did you mean arc-easy"):
        tasks.get("arc-esay")
    with pytest.raises(HubinitError, match="did you mean commonsense"):
        tasks.members("comonsense")


def test_training_examples_are_what_lm_eval_scores_as_right(arc: None) -> None:
    examples, _ = tasks.training_examples(DataSpec(tasks=("arc-easy",)), 0)
    assert len(examples) == 12
    assert Example("Question: What comes after number 1?\nAnswer:", " 3 of bb") in examples


def test_generation_examples_end_with_the_reference_solution(gsm8k: None) -> None:
    examples, _ = tasks.training_examples(DataSpec(tasks=("gsm8k",)), 0)
    assert Example("Question: What is 3 plus 1?\nAnswer:", " 3 + 1 = <<3+1=4>>4\n#### 4") in examples


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data sets are not beside the checkout")
@pytest.mark.parametrize("task", LANGUAGE, ids=lambda task: task.name)
def test_prompts_of_real_data_are_the_scored_ones(task: tasks.Task) -> None:
    local = replace(task, dataset=str(SHARED / task.dataset))
    definition = harness.load(local, None)
    split = harness.training_split(local, None)
    for row in range(20):
        document = split.documents[row]
        context = definition.fewshot_context(document, num_fewshot=0)
        requests = definition.construct_requests(document, context)
        example = split.example(row)
        if definition.OUTPUT_TYPE == "generate_until":
            assert example.prompt == requests.arguments[0]
            assert example.completion.startswith(" ")
            assert "#### " in example.completion
        else:
            right = [definition.process_results(document, [(float(i == j), False) for j in range(len(requests))])["acc"]
                     for i in range(len(requests))]  # fmt: skip
            assert sum(right) == 1
            assert (example.prompt, example.completion) == requests[right.index(1.0)].arguments


def test_splits_are_seeded_disjoint_and_validated_on_one_set(arc: None) -> None:
    def both(seed: int = 0, samples: int | None = None, validation: int = 3) -> tuple[list[Example], list[Example]]:
        return tasks.training_examples(
            DataSpec(tasks=("arc-easy",), samples=samples, validation_samples=validation), seed
        )

    examples, validation = both()
    assert both() == (examples, validation)
    assert (len(examples), len(validation)) == (9, 3)
    assert len({*examples, *validation}) == 12
    assert both(samples=4) == (examples[:4], validation)
    assert both(validation=0)[1] == []
    for seed in range(1, 5):  # no seed may see what another is validated on
        other, held_out = both(seed)
        assert held_out == validation
        assert other != examples
        assert Counter(other) == Counter(examples)


def test_a_mixture_joins_all_training_splits(arc: None, gsm8k: None) -> None:
    mixture, _ = tasks.training_examples(DataSpec(tasks=("arc-easy", "gsm8k")), 0)
    parts = [tasks.training_examples(DataSpec(tasks=(name,)), 0)[0] for name in ("arc-easy", "gsm8k")]
    assert Counter(mixture) == Counter(parts[0] + parts[1])
    kinds = ["####" in example.completion for example in mixture]
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)


def test_requests_that_cannot_be_met_are_explained(arc: None) -> None:
    with pytest.raises(HubinitError, match="has 12 training examples, too few to hold out 12"):
        tasks.training_examples(DataSpec(tasks=("arc-easy",), validation_samples=12), 0)
    for mixed in (("digits", "svhn"), ("arc-easy", "digits")):
        with pytest.raises(HubinitError, match="cannot train on"):
            tasks.training_examples(DataSpec(tasks=mixed), 0)


def test_a_task_without_training_examples_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_source", lambda task: SimpleNamespace(training_split=lambda task, revision: []))
    with pytest.raises(HubinitError, match="piqa has no training examples"):
        tasks.training_examples(DataSpec(tasks=("piqa",)), 0)


def test_data_come_from_the_hub_at_the_pinned_commit(
    api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tasks.TASKS, "arc-easy", replace(tasks.get("arc-easy"), dataset="alice/tiny-arc"))
    with pytest.raises(HubError, match="alice/tiny-arc"):
        tasks.pin("arc-easy")
    api.create_repo("alice/tiny-arc", repo_type="dataset")
    shas = []
    for rows in (5, 7):
        folder = save_arc(tmp_path / str(rows), train=rows)
        api.upload_folder(repo_id="alice/tiny-arc", repo_type="dataset", folder_path=folder)
        shas.append(tasks.pin("arc-easy"))
    for sha, rows in zip(shas, (5, 7), strict=True):
        assert len(tasks.training_examples(DataSpec(tasks=("arc-easy",), revisions=(sha,)), 0)[0]) == rows


def test_a_data_set_that_is_not_there_is_one_sentence(hub: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("piqa", "digits"):
        monkeypatch.setitem(tasks.TASKS, name, replace(tasks.get(name), dataset="alice/nowhere"))
        with pytest.raises(HubError, match=f"Cannot load the data set alice/nowhere of task '{name}': .*alice/nowhere"):
            tasks.training_examples(DataSpec(tasks=(name,)), 0)


def test_image_tasks_give_images_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"image": [Image.new("L", (8, 8), shade) for shade in (0, 80, 160, 240)], "label": [0, 1, 2, 1]}
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["zero", "one", "two"])})
    split = Dataset.from_dict(rows, features=features)
    folder = save_dataset(tmp_path / tmp_path.name, "default", {"train": split, "test": split.select([0])})
    monkeypatch.setitem(tasks.TASKS, "digits", replace(tasks.get("digits"), dataset=str(folder)))
    assert tasks.pin("digits") is None
    assert tasks.labels("digits") == ["zero", "one", "two"]
    examples, validation = tasks.training_examples(DataSpec(tasks=("digits",), validation_samples=1), 0)
    assert all(isinstance(example, ImageExample) for example in [*examples, *validation])
    assert [example.label for example in examples[1:]] == [example.label for example in examples][1:]
    assert (len(examples), len(examples[1:]), len(validation)) == (3, 2, 1)
    assert sorted((e.image.getpixel((0, 0)), e.label) for e in [*examples, *validation]) == [
        (0, 0), (80, 1), (160, 2), (240, 1),
    ]  # fmt: skip
