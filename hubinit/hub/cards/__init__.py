"""Cards (README.md) of everything hubinit publishes, rendered from the templates in this folder.

Model names, task names, options and commands may come from anywhere, so nothing reaches a card as it is: what a
template prints is escaped for Markdown and HTML unless it went through `code` or `fence`, and metadata is dumped as YAML.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, SpaceCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hubinit.hub.manifest import Manifest
from hubinit.records import RunResult, Score
from hubinit.specs import RunSpec

if TYPE_CHECKING:
    from hubinit.methods.spec import Method

_PIPELINES = {"language": "text-generation", "vision": "image-classification"}
_AUTO_CLASSES = {"language": "AutoModelForCausalLM", "vision": "AutoModelForImageClassification"}


def adapter_card(
    manifest: Manifest,
    repo_id: str,
    *,
    counterpart: str | None = None,
    licence: Mapping[str, Any] | None = None,
    datasets: Mapping[str, str] | None = None,
    num_labels: int | None = None,
    method: "Method | None" = None,
) -> str:
    """The card of an adapter repo.

    Args:
        manifest: what the adapter is.
        repo_id: where it will be.
        counterpart: the repo of the same run's start point (for a trained adapter) or outcome (for a start point).
        licence: `license`, `license_name`, `license_link` of the base model's card, which the adapter inherits.
        datasets: Hub dataset id of each task.
        num_labels: classes of the head, for image classifiers.
        method: the registered method, whose title and paper the card names.
    """
    result, spec = manifest.result, manifest.result.spec
    trained = manifest.kind == "trained"
    # Without a recipe the adapter was trained elsewhere: on what, nobody has said.
    train_tasks = spec.data.tasks if spec.data and not (trained and spec.recipe is None) else ()
    datasets = {task: task for task in train_tasks if "/" in task} | dict(datasets or {})  # the user's own on the Hub
    data = ModelCardData(
        base_model=spec.model.id,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag=_PIPELINES[spec.model.kind],
        datasets=sorted({datasets[task] for task in train_tasks if task in datasets}) or None,
        tags=["hubinit", "lora", "trained" if trained else "lora-init", spec.method.name, *train_tasks],
        model_name=repo_id.split("/")[-1] if trained and finite(result.scores) else None,
        eval_results=[_eval_result(score, spec, datasets) for score in finite(result.scores) if trained] or None,
        metrics=sorted({score.metric for score in result.scores}) or None if trained else None,
        hubinit={"kind": manifest.kind, "method": spec.method.name, "rank": spec.rank, "tasks": list(train_tasks)},
        **(licence or {}),
    )
    return _render(
        f"{manifest.kind}.md.j2",
        data,
        repo_id=repo_id,
        spec=spec,
        result=result,
        scores=finite(result.scores),
        counterpart=counterpart,
        licence=(licence or {}).get("license"),
        anchored=manifest.anchored,
        snippet=loading_snippet(manifest, repo_id, num_labels=num_labels),
        initialisation_seconds=initialisation_seconds(result),
        method=method,
    )


def loading_snippet(manifest: Manifest, repo_id: str, *, num_labels: int | None = None) -> str:
    """Python that loads the adapter with transformers and peft alone."""
    model = manifest.result.spec.model
    auto = _AUTO_CLASSES[model.kind]
    trained = manifest.kind == "trained"
    arguments = [json.dumps(model.id)]
    if model.revision:
        arguments.append(f"revision={json.dumps(model.revision)}")
    if num_labels is not None:
        arguments += [f"num_labels={num_labels}", "ignore_mismatched_sizes=True"]  # its own head may be another
    if not trained:
        arguments.append('dtype="float32"')
    repo = json.dumps(repo_id)
    lines = [
        "from peft import PeftModel",
        f"from transformers import {auto}",
        "",
        f"base = {auto}.from_pretrained({', '.join(arguments)})",
    ]
    if trained:
        lines.append(f"model = PeftModel.from_pretrained(base, {repo})")
    else:
        if manifest.anchored:
            lines.append(f'base = PeftModel.from_pretrained(base, {repo}, subfolder="anchor").merge_and_unload()')
        lines.append(f"model = PeftModel.from_pretrained(base, {repo}, is_trainable=True)")
        if manifest.anchored:
            lines.append(
                "# What you save after training needs the anchor, too: `hubinit finish` puts it in, once and for all."
            )
    return "\n".join(lines)


def leaderboard_card(repo_id: str, table: str, *, runs: int, rows: int, models: list[str], path: str) -> str:
    """The card of the leaderboard dataset.

    Args:
        repo_id: where it will be.
        table: the ranking as Markdown, already escaped.
        runs: number of runs.
        rows: number of rows.
        models: base models that were compared.
        path: the parquet file in the repo.
    """
    data = DatasetCardData(
        pretty_name="hubinit leaderboard",
        tags=["hubinit", "leaderboard", "lora"],
        configs=[{"config_name": "runs", "default": True, "data_files": [{"split": "train", "path": path}]}],
    )
    counts = {"runs": runs, "rows": rows, "models": models}
    return _render("leaderboard.md.j2", data, repo_id=repo_id, table=Markup(table), **counts)  # noqa: S704


def catalogue_card(repo_id: str, rows: list[dict[str, Any]], *, path: str) -> str:
    """The card of the catalogue of pre-initialised adapters.

    Args:
        repo_id: where it will be.
        rows: of `hubinit.hub.catalogue`.
        path: the parquet file in the repo.
    """
    data = DatasetCardData(
        pretty_name="hubinit catalogue",
        tags=["hubinit", "lora", "lora-init"],
        configs=[{"config_name": "adapters", "default": True, "data_files": [{"split": "train", "path": path}]}],
    )
    return _render("catalogue.md.j2", data, repo_id=repo_id, rows=rows)


def space_card(dataset: str, *, app_file: str, sdk_version: str) -> str:
    """The card of the Space that shows a leaderboard data set.

    Args:
        dataset: the leaderboard data set.
        app_file: the Gradio app in the Space.
        sdk_version: Gradio's version.
    """
    data = SpaceCardData(
        title="hubinit leaderboard",
        sdk="gradio",
        sdk_version=sdk_version,
        app_file=app_file,
        datasets=[dataset],
        tags=["hubinit", "leaderboard", "lora"],
    )
    return _render("space.md.j2", data, dataset=dataset)


def initialisation_seconds(result: RunResult) -> float | None:
    """Seconds from the base model to the start point: calibration and initialisation; None when not measured."""
    stages = [result.costs[stage].seconds for stage in ("calibrate", "initialise") if stage in result.costs]
    return sum(stages) if stages else None


def finite(scores: tuple[Score, ...]) -> list[Score]:
    """The scores that are numbers."""
    return [score for score in scores if math.isfinite(score.value)]


def escape(text: object) -> Markup:
    """`text` as plain words on one line, whatever Markdown or HTML it holds."""
    if isinstance(text, Markup):
        return text
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore between letters (acc_norm) means nothing in Markdown.
    return Markup(re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], plain))  # noqa: S704


def code(text: object) -> Markup:
    """`text` as an inline code span, also inside a table."""
    plain = one_line(text).replace("`", "'").replace("|", "∣")
    return Markup(f"`{plain}`")  # noqa: S704


def fence(text: str, language: str = "") -> Markup:
    """`text` as a code block that its content cannot close."""
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return Markup(f"{ticks}{language}\n{text}\n{ticks}")  # noqa: S704


def one_line(text: object) -> str:
    """`text` without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _render(template: str, data: ModelCardData | DatasetCardData | SpaceCardData, **values: Any) -> str:
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


def _eval_result(score: Score, spec: RunSpec, datasets: Mapping[str, str]) -> EvalResult:
    details = {"n": score.n, "stderr": score.stderr, "invalid_rate": score.invalid_rate}
    settings = {"limit": score.eval.limit, "num_few_shot": score.eval.shots}
    return EvalResult(
        task_type=_PIPELINES[spec.model.kind],
        dataset_type=datasets.get(score.task, score.task),
        dataset_name=score.task,
        dataset_revision=score.eval.revision,
        dataset_args={key: value for key, value in settings.items() if value is not None},
        metric_type=score.metric,
        metric_name=score.metric,
        metric_value=score.value,
        metric_args={key: value for key, value in details.items() if value is not None},
    )
