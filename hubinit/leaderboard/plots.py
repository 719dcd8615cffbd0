"""Figures of runs, readable in black and white: learning curves, sensitivity to the learning rate, drift of the subspaces.

One set of figures per setting: a model, its training data, and a recipe. A line is a method with its optimiser; a point is the
median over seeds, and a band or bar goes from the lowest to the highest.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hubinit.records import RunResult
from hubinit.specs import DEFAULT_OPTIMISER, OF_OPTIMISER, Recipe

# Okabe and Ito's colours, which colour-blind readers tell apart; markers and lines say the same without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*Xh<>d"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)))
Side = Literal["input", "output"]
Measure = Callable[[RunResult], float | None]


@dataclass(frozen=True)
class Setting:
    """Runs that may share a figure: by line (method), then by learning rate; those that diverged included."""

    name: str
    title: str
    lines: dict[str, dict[float, list[RunResult]]]

    @property
    def runs(self) -> list[RunResult]:
        """All of them."""
        return [run for rates in self.lines.values() for runs in rates.values() for run in runs]


def draw(
    results: Iterable[RunResult], on_note: Callable[[str], None] = lambda note: None
) -> Iterator[tuple[str, Figure]]:
    """All figures that the runs give, each with the name of its file.

    Args:
        results: of any models and tasks; those that were not trained are passed over.
        on_note: told what is missing in which figure.
    """
    for setting in settings(results):
        for name, figure in (
            ("curves", curves(setting)),
            ("learning-rates", learning_rates(setting)),
            ("drift", drift(setting)),
        ):
            if figure is None:
                on_note(f"{setting.title}: no figure '{name}', because {MISSING[name]}.")
            else:
                yield f"{name}-{setting.name}", figure
        lacking = sum(run.status != "diverged" and run.diagnostics is None for run in setting.runs)
        if lacking:
            on_note(f"{setting.title}: {lacking} runs lack diagnostics (an earlier version trained them).")


MISSING = {
    "curves": "no run has a learning curve",
    "learning-rates": "no method has validation losses at two learning rates",
    "drift": "no run has diagnostics of an adapter's factors",
}


def settings(results: Iterable[RunResult]) -> list[Setting]:
    """The trained runs by model, data and recipe (whatever the optimiser), each with a name of its own."""
    trained = [run for run in results if run.spec.recipe is not None and run.status != "failed"]
    trained.sort(key=lambda run: (_setting(run), _label(run), run.spec.learning_rate, run.spec.seed))
    found: list[Setting] = []
    for _, group in groupby(trained, key=_setting):
        runs = list(group)
        lines = {
            label: {rate: list(same) for rate, same in groupby(line, key=lambda run: run.spec.learning_rate)}
            for label, line in groupby(runs, key=_label)
        }
        name = _file_name(runs[0])
        again = sum(other.name.split("~")[0] == name for other in found)
        found.append(Setting(f"{name}~{again + 1}" if again else name, _title(runs), lines))
    return found


def _setting(run: RunResult) -> tuple[str, ...]:
    spec = run.spec
    assert spec.recipe is not None
    recipe = Recipe(**spec.recipe.model_dump(exclude={"optimiser", *OF_OPTIMISER}))
    return spec.model.key, spec.data.key if spec.data else "", recipe.canonical_json()


def _label(run: RunResult) -> str:
    """The method with what tells it from others: options, rank, optimiser."""
    spec = run.spec
    assert spec.recipe is not None
    options = [f"{name}={value}" for name, value in spec.method.options.items()]
    optimiser = [] if spec.recipe.optimiser == DEFAULT_OPTIMISER else [spec.recipe.optimiser_label]
    rank = [f"r{spec.rank}"] if spec.rank else []
    return " ".join([spec.method.name, *options, *rank, *optimiser])


def _model_and_data(run: RunResult) -> tuple[str, str]:
    model = run.spec.model.id.rstrip("/").rsplit("/", 1)[-1]
    return model, "+".join(run.spec.data.tasks) if run.spec.data else "no data"


def _title(runs: Sequence[RunResult]) -> str:
    recipe, seeds = runs[0].spec.recipe, {run.spec.seed for run in runs}
    assert recipe is not None
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
    model, data = _model_and_data(runs[0])
    return f"{model} on {data}, {length} of {recipe.batch_size}, {len(seeds)} seed{'s' * (len(seeds) > 1)}, {len(runs)} runs"


def _file_name(run: RunResult) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(_model_and_data(run)))[:100]


def best_rate(rates: dict[float, list[RunResult]]) -> float | None:
    """The learning rate with the lowest median validation loss; without one, that with the lowest loss at the end of training.

    A rate at which seeds are missing, because they diverged for example, is not chosen while others have more.
    """
    for measure in (_validation_loss, _last_loss):
        found = {rate: [value for run in runs if (value := measure(run)) is not None] for rate, runs in rates.items()}
        if most := max(map(len, found.values()), default=0):
            return min((median(values), rate) for rate, values in found.items() if len(values) == most)[1]
    return None


def _validation_loss(run: RunResult) -> float | None:
    return run.validation_loss


def _last_loss(run: RunResult) -> float | None:
    return run.curve[-1].loss if run.curve else None


def _spread(runs: Sequence[RunResult], measure: Measure) -> tuple[float, float, float] | None:
    """Median, lowest and highest of a number over runs; None where no run has it."""
    values = [value for run in runs if (value := measure(run)) is not None]
    return (median(values), min(values), max(values)) if values else None


def curves(setting: Setting) -> Figure | None:
    """Training loss by optimiser step, of each method at its best learning rate."""
    figure, (axes,) = _canvas(setting, 1)
    for index, (label, rates) in enumerate(setting.lines.items()):
        rate = best_rate(rates)
        runs = [run for run in rates.get(rate, ()) if run.curve] if rate is not None else []
        if not runs:
            continue
        losses: dict[int, list[float]] = {}
        for point in (point for run in runs for point in run.curve):
            losses.setdefault(point.step, []).append(point.loss)
        steps = sorted(losses)
        style = _style(index) | {"markevery": (index % 5, max(1, len(steps) // 8))}
        axes.plot(steps, [median(losses[step]) for step in steps], label=f"{label}, {rate:g}", **style)
        low, high = [min(losses[step]) for step in steps], [max(losses[step]) for step in steps]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axes.set(xlabel="optimiser step", ylabel="training loss")
    return _finished(figure, "method, learning rate")


def learning_rates(setting: Setting) -> Figure | None:
    """Validation loss by learning rate; a cross on the upper edge is a rate at which a run diverged."""
    figure, (axes,) = _canvas(setting, 1)
    if not any(
        sum(_spread(runs, _validation_loss) is not None for runs in rates.values()) > 1
        for rates in setting.lines.values()
    ):
        return None
    _by_rate(axes, setting, _validation_loss)
    for index, rates in enumerate(setting.lines.values()):
        for rate in (rate for rate, runs in rates.items() if any(run.status == "diverged" for run in runs)):
            height = 0.98 - 0.03 * (index % 8)  # of the axes: methods that diverged at one rate lie below each other
            style = {"marker": "x", "color": _style(index)["color"], "linestyle": "", "clip_on": False}
            axes.plot([rate], [height], transform=axes.get_xaxis_transform(), **style)
            axes.annotate(
                list(setting.lines)[index], (rate, height), xycoords=axes.get_xaxis_transform(), fontsize=6,
                xytext=(4, -2), textcoords="offset points",
            )  # fmt: skip
    medians = [
        found[0]
        for rates in setting.lines.values()
        for runs in rates.values()
        if (found := _spread(runs, _validation_loss))
    ]
    if max(medians) > 3 * min(medians) > 0:
        axes.set_yscale("log")
    diverged = any(run.status == "diverged" for run in setting.runs)
    axes.set_ylabel("validation loss" + " (×: a run diverged)" * diverged)
    return _finished(figure, "method")


def drift(setting: Setting) -> Figure | None:
    """Mean principal angle between the subspaces at the start and at the end, by learning rate: of A's rows, of B's columns."""
    figure, panels = _canvas(setting, 2)
    sides: tuple[tuple[Side, str], ...] = (("input", "rows of A"), ("output", "columns of B"))
    for axes, (side, name) in zip(panels, sides, strict=True):
        _by_rate(axes, setting, lambda run, side=side: _angle(run, side))  # type: ignore[misc]
        axes.set_title(name, fontsize=9)
    panels[0].set(ylabel="mean angle to the start (°)", ylim=(0, None))
    return _finished(figure, "method")


def _angle(run: RunResult, side: Side) -> float | None:
    found = run.diagnostics.drift if run.diagnostics else None
    return None if found is None else (found.input_angle if side == "input" else found.output_angle)


def _by_rate(axes: Axes, setting: Setting, measure: Measure) -> None:
    """A line per method of a number by learning rate, with bars over the seeds."""
    for index, (label, rates) in enumerate(setting.lines.items()):
        points = {rate: found for rate, runs in rates.items() if rate > 0 and (found := _spread(runs, measure))}
        if not points:
            continue
        middle = [found[0] for found in points.values()]
        bars = [[found[0] - found[1] for found in points.values()], [found[2] - found[0] for found in points.values()]]
        axes.errorbar(list(points), middle, yerr=bars, label=label, capsize=2, elinewidth=0.8, **_style(index))
    axes.set(xlabel="learning rate", xscale="log")


def _style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the method with this number."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
        "linewidth": 1.3,
        "markersize": 4.5,
    }


def _canvas(setting: Setting, panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.4 + 4.2 * panels, 4.4), layout="constrained")
    figure.suptitle(setting.title, fontsize=9)
    return figure, list(figure.subplots(1, panels, squeeze=False, sharex=True, sharey=True)[0])


def _finished(figure: Figure, legend: str) -> Figure | None:
    """The figure with its legend beside it; None where nothing was drawn."""
    labelled = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if not labelled:
        return None
    for axes in figure.axes:
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        labelled.values(), labelled.keys(), title=legend, loc="outside right upper", fontsize=7, handlelength=3.5
    )
    return figure
