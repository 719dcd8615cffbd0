"""The report of a refresh for people: lines of a terminal, and Markdown for an issue."""

from collections.abc import Iterator

from hubinit.leaderboard.render import markdown_table
from hubinit.leaderboard.rows import printed
from hubinit.leaderboard.watch import Finding, Report
from hubinit.text import escape, one_line

HEADER = ["", "what", "model", "task", "method", "LR", "old", "new", "change", "95 % interval", "p", "seeds"]


def title(report: Report) -> str:
    """The outcome in one sentence."""
    worse = sum(one.worse for one in report.findings)
    if worse:
        figures = "1 figure is" if worse == 1 else f"{worse} figures are"
        return f"{figures} worse than before, beyond the noise: {report.compared} lines compared, {report.added} new."
    return f"Nothing is worse beyond its noise: {report.compared} lines compared, {report.added} new."


def lines(report: Report) -> Iterator[str]:
    """The report for a terminal."""
    yield title(report)
    for one in report.findings:
        cells = [cell for cell in _cells(one)[1:] if cell]
        yield f"  {'WORSE' if one.worse else 'better'}: {' · '.join(cells)}" + (
            f" · {one_line(one.reason)}" if one.reason else ""
        )
    for change in report.changes:
        yield f"  changed ({change.lines} lines): {one_line(change.what)}: {one_line(change.old)} ─► {one_line(change.new)}"


def markdown(report: Report) -> str:
    """The report as Markdown, every name escaped."""
    parts = [f"### {escape(title(report))}"]
    if report.findings:
        body: list[list[str]] = [[escape(cell) for cell in _cells(one)] for one in report.findings]
        parts.append(markdown_table(HEADER, body))
        parts += [
            f"- {escape(one.method)} {escape(one.kind)}: {escape(one.reason)}" for one in report.findings if one.reason
        ]
        keys = sorted({key for one in report.findings if one.worse for key in one.keys})
        parts += [f"Runs: {' '.join(f'`{key}`' for key in keys)}"] if keys else []
    if report.changes:
        body = [[escape(cell) for cell in (one.what, one.old, one.new, one.lines)] for one in report.changes]
        parts.append(f"What changed beside it:\n\n{markdown_table(['what', 'old', 'new', 'lines'], body)}")
    return "\n\n".join(parts) + "\n"


def _cells(one: Finding) -> list[str]:
    scale = printed(one.metric or "") if one.kind == "score" else 1
    ratio = one.kind not in ("score", "validation loss")

    def number(value: float | None) -> str:
        return "" if value is None else f"{scale * value:.6g}"

    change = "" if one.change is None else f"×{one.change:.5g}" if ratio else f"{scale * one.change:+.3g}"
    interval = "" if one.low is None or one.high is None else f"[{number(one.low)}, {number(one.high)}]"
    p = "" if one.p is None else f"{one.p:.2g}"
    names = [one.kind, one_line(one.model), one_line(one.task or ""), one_line(one.method)]
    rate = "" if one.lr is None else f"{one.lr:g}"
    return [
        "worse" if one.worse else "better",
        *names,
        rate,
        number(one.old),
        number(one.new),
        change,
        interval,
        p,
        str(one.seeds),
    ]
