"""Tiny tasks in lm-eval's own format, for `lm-eval:<name>`: one YAML file each, data in JSON files beside them."""

import json
from pathlib import Path

import lm_eval.tasks
import pytest
import yaml

from hubinit.tasks import named

ARC = Path(lm_eval.tasks.__file__).parent / "arc" / "arc_easy.yaml"
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{q}}\nAnswer:",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "{{a}}",
    "training_split": "train",
    "test_split": "test",
}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{q}}\nAnswer:",
    "doc_to_target": "{{c[a]}}",
    "training_split": "train",
    "test_split": "test",
    "fewshot_split": "train",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match"}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{q}}",
    "training_split": "train",
    "test_split": "test",
    "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
}


def acc(*others: str) -> dict[str, object]:
    return {"metric_list": [{"metric": name} for name in ("acc", *others)]}


def use(folder: Path, patch: pytest.MonkeyPatch, *, hub: str = "alice/tiny-arc") -> None:
    """Makes lm-eval's index consist of the tasks below; every folder has data of its own."""
    (folder / "utils.py").write_text("import surely_not_installed\n\ndef read(doc):\n    return ''\n")

    def data(name: str, test: int) -> dict[str, object]:
        files = {}
        for split, first, count in (("train", 100, 5), ("test", 0, test)):
            rows = [
                {"q": f"What is the color of sky {index}?", "c": ["blue", "red bird", "a day"], "a": index % 3}
                for index in range(first, first + count)
            ]
            path = folder / f"{name}-{split}.json"
            path.write_text("\n".join(map(json.dumps, rows)))
            files[split] = str(path)
        return {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}

    small, large = data("small", 3), data("large", 7)
    tasks: dict[str, dict[str, object]] = {
        "small": CHOICE | small | acc("acc_norm") | {"tag": "both"},
        "large": CHOICE | large | acc("acc_norm") | {"tag": "both"},
        "on_the_hub": {"include": str(ARC), "dataset_path": hub, "tag": "arc"},
        "corpus": CHOICE
        | large
        | {"doc_to_choice": "{{c[1:]}}", "doc_to_target": "{{a % 2}}"}
        | {"metric_list": [{"metric": "f1"}, {"metric": "acc"}]},
        "free": GENERATE | small | {"num_fewshot": 2},
        "fixed": GENERATE | small | {"num_fewshot": 0},
        "rolling": ROLLING | small,
        "unsafe": GENERATE | small | {"unsafe_code": True},
        "seen": GENERATE | small | {"doc_to_image": "image"},
        "foreign": GENERATE | small | {"metric_list": [{"metric": "rouge"}]},
        "trained_on": CHOICE | small | acc() | {"test_split": "train"},
    }
    for name, config in tasks.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **config}))
    text = yaml.safe_dump({"task": "lacking", **GENERATE, **small})
    (folder / "lacking.yaml").write_text(text + "process_docs: !function utils.read\n")
    groups = {
        "weighted": {"task": ["small", "large"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]},
        "plain": {"task": ["small", "large"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]},
        "nested": {"task": ["weighted", "corpus"], "aggregate_metric_list": [{"metric": "acc"}]},
        "loose": {"task": ["weighted", "both"]},
        "uneven": {"task": ["free", "fixed"], "aggregate_metric_list": [{"metric": "exact_match"}]},
        "inside": {"task": [{"task": "new", **CHOICE}]},
    }
    for name, config in groups.items():
        (folder / f"_{name}.yaml").write_text(yaml.safe_dump({"group": name, **config}))
    index = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)
    patch.setattr(named, "manager", lambda: index)
    named.find.cache_clear()
    named.load.cache_clear()
