"""Any task, group or tag of lm-eval by its own name, `lm-eval:<name>`: a task made on the fly from lm-eval's definition.

Nothing but lm-eval's own code runs: tasks that execute answers, metrics and data sets that are code on the Hub are refused.
"""

import importlib.metadata
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from functools import cache
from io import StringIO
from typing import Any

from huggingface_hub import HfApi

from hubinit.errors import HubinitError, first_line
from hubinit.remote import DATA_ERRORS, explain
from hubinit.specs import LM_EVAL_PREFIX
from hubinit.tasks.harness import TrainingSplit
from hubinit.tasks.spec import Task

SCORER = "lm-eval-name"
# Builders of `datasets` that read files from anywhere: there is not a commit of a data set to name.
FILE_BUILDERS = {"arrow", "csv", "imagefolder", "json", "pandas", "parquet", "sql", "text", "xml"}
Config = Mapping[str, Any]  # of a task, as lm-eval's YAML files have it, with functions as text


def is_named(name: str) -> bool:
    """Whether a task's name is one of lm-eval's."""
    return name.startswith(LM_EVAL_PREFIX)


@cache
def manager() -> Any:
    """lm-eval's index of its definitions; reading them all takes about ten seconds, once per process."""
    import lm_eval.tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return lm_eval.tasks.TaskManager()


def entry_of(name: str) -> Any:
    """What lm-eval's index says about `lm-eval:<name>`.

    Raises:
        HubinitError: lm-eval does not know it; the message names the nearest.
    """
    index = manager().task_index
    own = name.removeprefix(LM_EVAL_PREFIX)
    if own not in index:
        close = get_close_matches(own, list(index), n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(LM_EVAL_PREFIX + one for one in close)}?"
            if close
            else "`lm-eval ls tasks` lists them."
        )
        raise HubinitError(f"lm-eval {version()} has no task '{own}': {hint}")
    return index[own]


def version() -> str:
    """Of lm-eval."""
    return importlib.metadata.version("lm-eval")


def expand(name: str) -> tuple[str, ...]:
    """The tasks behind a name: itself, or the parts of a tag, or of a group that lm-eval gives no score of its own.

    Raises:
        HubinitError: an unknown name, or such a group with a part that has no name of its own.
    """
    entry = entry_of(name)
    if entry.kind.name == "TAG":
        return tuple(LM_EVAL_PREFIX + part for part in sorted(entry.tags))
    if entry.kind.name != "GROUP" or entry.cfg.get("aggregate_metric_list"):
        return (name,)
    parts: list[str] = []
    for part in parts_of(entry.cfg):
        if not isinstance(part, str):
            raise HubinitError(f"lm-eval has no score for the group '{name}' as a whole; name the tasks in it instead.")
        parts += expand(LM_EVAL_PREFIX + part)
    return tuple(dict.fromkeys(parts))


@cache
def find(name: str) -> Task:
    """The task with this name, `lm-eval:<name>`; no data are loaded.

    Raises:
        HubinitError: lm-eval does not know it, or it needs what is not given here.
    """
    entry = entry_of(name)
    if entry.kind.name == "TAG":
        raise HubinitError(f"'{name}' is a tag of lm-eval, which stands for {', '.join(expand(name))}; name one.")
    parts = leaves(entry.cfg)
    check(name, parts)
    first = parts[0] if len(parts) == 1 else {}
    return Task(
        name=name,
        title=f"{entry.name} of lm-eval",
        kind="language",
        dataset=shared_dataset(parts),
        config=first.get("dataset_name"),
        train_split=first.get("training_split") or "",
        test_split=first.get("test_split") or first.get("validation_split") or "",
        scorer=SCORER,
        definition=str(entry.yaml_path),
        harness=entry.name,
        primary="",  # the first metric of its results of which more is better
        shots=own_shots(parts),
        source=f"lm-eval {version()}: {'/'.join(entry.yaml_path.parts[-2:])}",
    )


def parts_of(config: Config) -> list[str | Config]:
    """What a group consists of; references are names, and definitions inside the group are configurations."""
    listed = config.get("task") or []
    return [listed] if isinstance(listed, str) else list(listed)


def leaves(config: Config, overrides: Config | None = None) -> list[Config]:
    """The configurations of all tasks of a task or group, with what the groups around them set."""
    overrides = overrides or {}
    if "group" not in config:
        return [{**config, **overrides}]
    index = manager().task_index
    structure = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "include"}
    inner = {key: value for key, value in config.items() if key not in structure} | dict(overrides)
    found: list[Config] = []
    for part in parts_of(config):
        own = {} if isinstance(part, str) else {key: value for key, value in part.items() if key not in structure}
        name = part if isinstance(part, str) else part.get("group") or part.get("task")
        entry = index.get(name) if isinstance(name, str) else None
        if entry is None:
            found += leaves(part, inner) if isinstance(part, Mapping) else []
        elif entry.kind.name == "TAG":
            found += [{**index[tagged].cfg, **inner, **own} for tagged in sorted(entry.tags)]
        else:
            found += leaves(entry.cfg, {**inner, **own})
    return found


def check(name: str, parts: list[Config]) -> None:
    """Refuses what cannot be scored here.

    Raises:
        HubinitError: it can not.
    """
    if any(part.get("unsafe_code") for part in parts):
        raise HubinitError(
            f"'{name}' runs programs that the model writes, outside of a sandbox; take humaneval or mbpp, which run in one."
        )
    if any(part.get("doc_to_image") or part.get("doc_to_audio") for part in parts):
        raise HubinitError(f"'{name}' asks about images or sounds, which a language model does not see.")
    if not parts:
        raise HubinitError(f"'{name}' has no tasks that lm-eval {version()} knows.")


def shared_dataset(parts: list[Config]) -> str:
    """The one data set, on the Hub or in a folder, of all parts.

    "" where there are several, or files from elsewhere, or where lm-eval itself chooses the revision.
    """
    found = {part.get("dataset_path") for part in parts}
    path = found.pop() if len(found) == 1 else None
    other = any("custom_dataset" in part or "revision" in (part.get("dataset_kwargs") or {}) for part in parts)
    return "" if path is None or other or path in FILE_BUILDERS else str(path)


def own_shots(parts: list[Config]) -> int:
    """The solved examples that the definition puts into the prompt; 0 where its parts differ."""
    counts = {part.get("num_fewshot") or 0 for part in parts}
    return int(counts.pop()) if len(counts) == 1 else 0


def check_shots(task: Task, shots: int) -> None:
    """Refuses a number of solved examples that lm-eval would pass over.

    Raises:
        HubinitError: the prompt is fixed, or its parts have numbers of their own.
    """
    counts = {part.get("num_fewshot") for part in leaves(entry_of(task.name).cfg)}
    if shots and 0 in counts:
        raise HubinitError(f"lm-eval fixes the prompt of '{task.name}' at no solved examples; leave out --shots.")
    if not shots and len({count or 0 for count in counts}) > 1:
        raise HubinitError(
            f"The tasks of '{task.name}' have different numbers of solved examples "
            f"({', '.join(sorted(str(count or 0) for count in counts))}); score them one by one."
        )


@cache
def load(task: Task, revision: str | None) -> dict[str, Any]:
    """lm-eval's `tasks`, `groups` and `group_map` for a task, with its data at the given revision.

    Raises:
        HubError: the data set cannot be had.
        HubinitError: it needs a package that is not there, or code from the Hub.
    """
    try:
        with at_revision(task.dataset, revision), own_code_only(task.name), quiet():
            loaded: dict[str, Any] = manager().load([task.harness])
    except DATA_ERRORS as error:
        raise explain(error, f"load the data of task '{task.name}'", HfApi()) from error
    except ImportError as error:
        raise lacking(task.name, error) from error
    except HubinitError:
        raise
    except Exception as error:  # definitions are the work of many hands, and fail in as many ways
        raise HubinitError(f"lm-eval cannot load '{task.name}': {first_line(error)}.") from error
    if any(getattr(definition, "MULTIMODAL", False) for definition in loaded["tasks"].values()):
        raise HubinitError(f"'{task.name}' asks about images or sounds, which a language model does not see.")
    return loaded


def lacking(name: str, error: ImportError) -> HubinitError:
    """The one sentence for a package that a task needs."""
    package = f"the package '{error.name}', which is not installed" if error.name else first_line(error)
    return HubinitError(f"'{name}' needs {package}; `pip install lm-eval[...]` names the extras of lm-eval.")


def training_split(task: Task, revision: str | None) -> TrainingSplit:
    """The task's training documents.

    Raises:
        HubError: the data set cannot be had.
        HubinitError: there are none that a model could answer, or they are what is scored.
    """
    definition = load(task, revision)["tasks"][task.harness]
    if definition.OUTPUT_TYPE == "loglikelihood_rolling":
        raise HubinitError(f"'{task.name}' scores whole texts and has no prompts to train on; train on another task.")
    if task.train_split == task.test_split:
        raise HubinitError(f"'{task.name}' is scored on its training split; train on another task.")
    return TrainingSplit(definition, definition.training_docs())


@contextmanager
def at_revision(dataset: str, revision: str | None) -> Iterator[None]:
    """Lets a data set be loaded at a commit: lm-eval has no such override for a whole group."""
    import datasets

    def load_at(path: str, *args: Any, **kwargs: Any) -> Any:
        if path == dataset and revision is not None:
            kwargs["revision"] = revision
        return usual(path, *args, **kwargs)

    datasets.config.USE_PARQUET_EXPORT = False  # would ask a second server, the dataset viewer
    usual, datasets.load_dataset = datasets.load_dataset, load_at
    try:
        yield
    finally:
        datasets.load_dataset = usual


@contextmanager
def own_code_only(name: str) -> Iterator[None]:
    """Refuses metrics that are code on the Hub, which `evaluate` would fetch and run.

    Raises:
        HubinitError: one was asked for, even where lm-eval would go on without it.
    """
    import evaluate

    asked: list[str] = []

    def refuse(path: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(path)
        raise HubinitError(refusal)

    refusal = f"'{name}' computes its score with code from the Hub, which is not run here; choose another task."
    usual, evaluate.load = evaluate.load, refuse
    try:
        yield
    except Exception as error:
        if asked:
            raise HubinitError(refusal) from error
        raise
    finally:
        evaluate.load = usual
    if asked:
        raise HubinitError(refusal)


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's progress bars and notes, which have no other switch."""
    with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        yield
