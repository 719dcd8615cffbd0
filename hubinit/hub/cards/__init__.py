"""Cards (README.md) of everything hubinit publishes, rendered from the templates in this folder.

Model names, task names, options and commands may come from anywhere, so nothing reaches a card as it is: what a
template prints is escaped for Markdown and HTML unless it went through `code` or `fence`, and metadata is dumped as YAML.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from hubinit.adapters.freezing import frozen_by
from hubinit.adapters.lines import start_lines
from hubinit.leaderboard.rows import RunRow, schema_of
from hubinit.leaderboard.summary import SummaryRow
from hubinit.models.kinds import KINDS
from hubinit.records import AdapterKind, Manifest, RunResult, Score
from hubinit.specs import LM_EVAL_PREFIX, RunSpec
from hubinit.text import code, escape, fence, one_line
from hubinit.training.advice import SUGGESTED, how_sure

if TYPE_CHECKING:  # both import torch, which reading and the leaderboard do without
    from hubinit.methods.spec import Method
    from hubinit.tasks.spec import Task

KIND_TAGS: dict[AdapterKind, str] = {
    "initialised": "lora-init",
    "trained": "trained",
}  # by which `hubinit find` asks the Hub
OWN_DATA = "own-data"  # stands for the name of a private file


def adapter_card(
    manifest: Manifest,
    repo_id: str,
    *,
    counterpart: str | None = None,
    licence: Mapping[str, Any] | None = None,
    tasks: "Mapping[str, Task] | None" = None,
    num_labels: int | None = None,
    method: "Method | None" = None,
) -> str:
    """The card of an adapter repo; the name of a user's own data file is left out.

    Args:
        manifest: what the adapter is.
        repo_id: where it will be.
        counterpart: the repo of the same run's start point (for a trained adapter) or outcome (for a start point).
        licence: `license`, `license_name`, `license_link` of the base model's card, which the adapter inherits.
        tasks: the registered tasks.
        num_labels: classes of the head, for image classifiers.
        method: the registered method, whose title and paper the card names.
    """
    result, spec = manifest.result, manifest.result.spec
    trained, tasks = manifest.kind == "trained", tasks or {}
    named = {name: public_name(name, tasks) for name in (spec.data.tasks if spec.data else ())}
    elsewhere = trained and spec.recipe is None  # on what, nobody has said
    train_tasks = [name for name in named.values() if name != OWN_DATA and not elsewhere]
    command = result.provenance.command
    for name in (name for name, shown in named.items() if shown == OWN_DATA):
        command = command.replace(name, OWN_DATA)
    data = ModelCardData(
        base_model=spec.model.id,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag=KINDS[spec.model.kind].pipeline,
        datasets=sorted({name if "/" in name else tasks[name].dataset for name in train_tasks}) or None,
        tags=["hubinit", "lora", KIND_TAGS[manifest.kind], spec.method.name, *train_tasks],
        model_name=repo_id.split("/")[-1] if trained and finite(result.scores) else None,
        eval_results=[_eval_result(score, spec, tasks) for score in finite(result.scores) if trained] or None,
        metrics=sorted({score.metric for score in result.scores}) or None if trained else None,
        hubinit={"kind": manifest.kind, "method": spec.method.name, "rank": spec.rank, "tasks": train_tasks},
        **(licence or {}),
    )
    return _render(
        f"{manifest.kind}.md.j2",
        data,
        repo_id=repo_id,
        spec=spec,
        result=result,
        data_names=list(named.values()),
        calibration_examples=("" if result.calibration_examples else "up to ") + str(result.calibrated_on),
        command=command,
        scores=finite(result.scores),
        counterpart=counterpart,
        licence=(licence or {}).get("license"),
        anchored=manifest.anchored,
        frozen=frozen_by(spec.method.name, spec.method.options),
        snippet=loading_snippet(manifest, repo_id, num_labels=num_labels),
        initialisation_seconds=initialisation_seconds(result),
        suggested_rate=result.initialisation.get(SUGGESTED),
        how_sure=how_sure(spec.method.name),
        method=method,
    )


def loading_snippet(manifest: Manifest, repo_id: str, *, num_labels: int | None = None) -> str:
    """Python that loads the adapter with transformers and peft alone."""
    model = manifest.result.spec.model
    auto = KINDS[model.kind].auto_class
    trained = manifest.kind == "trained"
    arguments = [json.dumps(model.id)]
    if model.revision:
        arguments.append(f"revision={json.dumps(model.revision)}")
    if num_labels is not None:
        arguments += [f"num_labels={num_labels}", "ignore_mismatched_sizes=True"]  # its own head may be another
    if not trained:
        arguments.append('dtype="float32"')
    lines = [
        "from peft import PeftModel",
        f"from transformers import {auto}",
        "",
        f"base = {auto}.from_pretrained({', '.join(arguments)})",
    ]
    if trained:
        lines.append(f"model = PeftModel.from_pretrained(base, {json.dumps(repo_id)})")
    else:
        method = manifest.result.spec.method
        lines += start_lines(
            repo_id,
            anchored=manifest.anchored,
            tied=bool(manifest.result.initialisation.get("tied_modules")),
            frozen=frozen_by(method.name, method.options),
        )
        if manifest.anchored:
            lines.append(
                "# What you save after training needs the anchor, too: `hubinit finish` puts it in, once and for all."
            )
    return "\n".join(lines)


def leaderboard_card(
    repo_id: str,
    table: str,
    *,
    runs: int,
    rows: int,
    models: list[str],
    paths: Mapping[str, str],
    quarantined: int = 0,
) -> str:
    """The card of the leaderboard dataset.

    Args:
        repo_id: where it will be.
        table: the ranking as Markdown, already escaped.
        runs: number of runs.
        rows: number of rows.
        models: base models that were compared.
        paths: configuration ─► its parquet file in the repo; `summary` and `runs` at least.
        quarantined: rows that could not stay in the table.
    """
    data = DatasetCardData(
        pretty_name="hubinit leaderboard",
        tags=["hubinit", "leaderboard", "lora"],
        configs=[
            {"config_name": name, "data_files": [{"split": "train", "path": path}]}
            | ({"default": True} if name == "runs" else {})
            for name, path in paths.items()
        ],
    )
    columns = {"runs": columns_of(RunRow), "summary": columns_of(SummaryRow)}
    counts = {"runs": runs, "rows": rows, "models": models, "quarantined": quarantined}
    table = Markup(table)  # noqa: S704
    return _render("leaderboard.md.j2", data, repo_id=repo_id, table=table, paths=paths, columns=columns, **counts)


def columns_of(row: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Name, type and meaning of each column of a table of such rows."""
    types = {field.name: str(field.type) for field in schema_of(row)}
    return [(name, types[name], info.description or "") for name, info in row.model_fields.items()]


def catalogue_card(repo_id: str, rows: list[dict[str, Any]], *, path: str, quarantined: int = 0) -> str:
    """The card of the catalogue of pre-initialised adapters.

    Args:
        repo_id: where it will be.
        rows: of `hubinit.hub.catalogue`.
        path: the parquet file in the repo.
        quarantined: rows that could not stay in the table.
    """
    data = DatasetCardData(
        pretty_name="hubinit catalogue",
        tags=["hubinit", "lora", "lora-init"],
        configs=[{"config_name": "adapters", "default": True, "data_files": [{"split": "train", "path": path}]}],
    )
    return _render("catalogue.md.j2", data, repo_id=repo_id, rows=rows, quarantined=quarantined)


def public_name(task: str, tasks: "Mapping[str, Task]") -> str:
    """The name of training data as others may see it: a registered task, a data set on the Hub, or `OWN_DATA`."""
    return task if task in tasks or "/" in task or task.startswith(LM_EVAL_PREFIX) else OWN_DATA


def initialisation_seconds(result: RunResult) -> float | None:
    """Seconds from the base model to the start point: calibration and initialisation; None when not measured."""
    stages = [result.costs[stage].seconds for stage in ("calibrate", "initialise") if stage in result.costs]
    return sum(stages) if stages else None


def finite(scores: tuple[Score, ...]) -> list[Score]:
    """The scores that are numbers."""
    return [score for score in scores if math.isfinite(score.value)]


def _render(template: str, data: ModelCardData | DatasetCardData, **values: Any) -> str:
    _clean(data)
    header = Markup(f"---\n{data.to_yaml()}\n---")  # noqa: S704
    return _environment().get_template(template).render(header=header, **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hubinit.hub", "cards"),
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (`finalize` escapes, for Markdown as well as HTML)
    )
    environment.filters |= {"code": code, "fence": fence, "json": lambda value: json.dumps(value, sort_keys=True)}
    return environment


def _clean(data: Any) -> None:
    """Strips line breaks and control characters from metadata, so that no value can look like the end of the header."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, str):
            return one_line(value)
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        if isinstance(value, dict):
            return {one_line(key): cleaned(item) for key, item in value.items()}
        if isinstance(value, EvalResult):
            return EvalResult(**{key: cleaned(item) for key, item in vars(value).items()})
        return value

    for key, value in list(vars(data).items()):
        setattr(data, key, cleaned(value))


def _eval_result(score: Score, spec: RunSpec, tasks: "Mapping[str, Task]") -> EvalResult:
    """One entry of the model-index, which groups scores by data set, configuration, split and revision."""
    task = tasks.get(score.task)
    details = {
        "n": score.n,
        "stderr": score.stderr,
        "invalid_rate": score.invalid_rate,
        "judge_version": score.judge_version,
    }
    settings = {"limit": score.eval.limit, "num_few_shot": score.eval.shots, "judge": score.eval.judge}
    return EvalResult(
        task_type=KINDS[spec.model.kind].pipeline,
        dataset_type=task.dataset if task else score.task,
        dataset_name=score.task,
        dataset_config=task.config if task else None,
        dataset_split=task.test_split if task else None,
        dataset_revision=score.eval.revision,
        metric_type=score.metric,
        metric_name=score.metric,
        metric_value=score.value,
        metric_args={key: value for key, value in (details | settings).items() if value is not None},
    )
