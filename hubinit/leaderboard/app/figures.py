"""Figures of one table of lines as SVG: readable without colour, in light and dark, and each point a link to its line.

What is drawn is also in a table below the figure, which screen readers read instead of it.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hubinit.leaderboard.plots import DASHES, MARKERS

# Okabe and Ito's colours without yellow, lightened or darkened to at least 3 : 1 against white and against near-black.
COLOURS = ("#3a8bd0", "#d9691b", "#149a73", "#c4649a", "#b07f12", "#7a70d8")
INK = "#010203"  # stands for the colour of the page's text until the figure is in the page
WIDTH, HEIGHT = 5.6, 3.9  # inches, for the width of a phone
WIDE = 20  # costs that differ by more are drawn on a logarithmic axis
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hubinit",  # equal figures are equal text
    "text.parse_math": False,  # a name may hold a dollar
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
ONE_AT_A_TIME = Lock()  # matplotlib's settings are those of the process


@dataclass(frozen=True)
class Series:
    """One method of a figure.

    Attributes:
        name: in the legend.
        x: of its points.
        y: of its points.
        low: ends of its bars; () for none.
        high: likewise.
        link: where a click on it leads.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    link: str = ""


def scatter(series: Sequence[Series], front: Sequence[tuple[float, float]], x_label: str, y_label: str) -> str:
    """One point for each series, and a dashed staircase along those that nothing beats."""

    def draw(axes: Axes) -> None:
        if len(front) > 1:
            axes.step(*zip(*front, strict=True), where="post", color=INK, linestyle="--", linewidth=1, alpha=0.6)
        for number, one in enumerate(series):
            _bars(axes, one, number)
            points = axes.scatter(one.x, one.y, s=90, color=_colour(number), marker=_marker(number), zorder=3)
            points.set_urls([one.link] * len(one.x))
            points.set_label(one.name)
        values = [x for one in series for x in one.x]
        if values and 0 < WIDE * min(values) < max(values):
            _logarithmic(axes)

    return _svg(draw, x_label, y_label)


def lines(series: Sequence[Series], x_label: str, y_label: str, *, logarithmic: bool = False) -> str:
    """One line for each series, with bars where it has them."""

    def draw(axes: Axes) -> None:
        for number, one in enumerate(series):
            _bars(axes, one, number)
            marker = _marker(number)
            every = max(1, len(one.x) // 8)
            axes.plot(
                one.x,
                one.y,
                color=_colour(number),
                marker=marker,
                markevery=every,
                markersize=7,
                linestyle=DASHES[number % len(DASHES)],
                label=one.name,
                url=one.link,
            )
        if logarithmic:
            _logarithmic(axes)

    return _svg(draw, x_label, y_label)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(axes: Axes, one: Series, number: int) -> None:
    if one.low:
        below = [max(y - low, 0.0) for y, low in zip(one.y, one.low, strict=True)]
        above = [max(high - y, 0.0) for y, high in zip(one.y, one.high, strict=True)]
        axes.errorbar(one.x, one.y, yerr=(below, above), fmt="none", ecolor=_colour(number), capsize=3, alpha=0.7)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _svg(draw: Callable[[Axes], None], x_label: str, y_label: str) -> str:
    """The figure as an `<svg>` that scales with the page, whose text has the page's colour and font."""
    with ONE_AT_A_TIME, mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.25, color=INK, linewidth=0.6)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=11)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(
        r"<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL
    )  # a style is the whole page's
    text = re.sub(r' (width|height)="[^"]*"', "", text, count=2)  # as wide as the page has room
    text = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    return text.replace(' target="_blank"', ' tabindex="-1"')
