"""`.eval_results/*.yaml`: scores on datasets that the Hub has registered as benchmarks.

Everything else is in the card's `model-index`. A score on a part of the test set is not published here, because those who read
a benchmark's leaderboard would take it for one on all of it.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from huggingface_hub import HfApi

from hubinit.records import RunResult
from hubinit.remote import HUB_ERRORS
from hubinit.tasks.spec import Task
from hubinit.yamlsafe import load_untrusted_yaml

OFFICIAL = "benchmark:official"
_UNREADABLE: tuple[type[Exception], ...] = (*HUB_ERRORS, ValueError)


@dataclass(frozen=True)
class Benchmark:
    """A task as its dataset's `eval.yaml` names it."""

    dataset: str
    task_id: str


def find_benchmarks(api: HfApi, tasks: Iterable[Task]) -> dict[str, Benchmark]:
    """Asks the Hub which tasks are registered benchmarks; none where it cannot say."""
    found = {}
    for task in tasks:
        for task_id in _task_ids(api, task.dataset):
            if _plain(task_id) == _plain(task.name):
                found[task.name] = Benchmark(task.dataset, task_id)
    return found


def eval_files(result: RunResult, benchmarks: Mapping[str, Benchmark]) -> dict[str, bytes]:
    """The files for a trained adapter, by path: the primary metric of each benchmark that was scored in full."""
    spec, files = result.spec, {}
    for score in result.scores:
        if score.primary and score.task in benchmarks and score.eval.limit is None and math.isfinite(score.value):
            benchmark = benchmarks[score.task]
            error = f", standard error {score.stderr:.4f}" if score.stderr is not None else ""
            entry = {
                "dataset": {"id": benchmark.dataset, "task_id": benchmark.task_id}
                | ({"revision": score.eval.revision} if score.eval.revision else {}),
                "value": score.value,
                "date": result.provenance.created[:10],
                "notes": f"{score.metric} on {score.n} examples{error}; {score.eval.shots}-shot, "
                f"LoRA r={spec.rank} from {spec.method.name}, hubinit",
            }
            files[f".eval_results/{_plain(score.task)}.yaml"] = yaml.safe_dump([entry], sort_keys=False).encode()
    return files


@lru_cache(maxsize=256)
def _task_ids(api: HfApi, dataset: str) -> tuple[str, ...]:
    """The tasks of a registered benchmark; nothing for other datasets. Asked once per client and dataset."""
    try:
        if OFFICIAL not in (api.dataset_info(dataset).tags or []):
            return ()
        text = Path(api.hf_hub_download(dataset, "eval.yaml", repo_type="dataset")).read_text(encoding="utf-8")
        content = load_untrusted_yaml(text)
    except _UNREADABLE:  # a repo without this extra is better than none
        return ()
    tasks = content.get("tasks") if isinstance(content, Mapping) else None
    if not isinstance(tasks, list):
        return ()
    return tuple(str(task["id"]) for task in tasks if isinstance(task, Mapping) and "id" in task)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())
