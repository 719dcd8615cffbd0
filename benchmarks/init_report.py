"""Table, targets and figure from the records of `init_time.py`. Run as a script it redraws the figure from any records.

python benchmarks/init_report.py benchmarks/results/init_time-cpu-*.json
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]
DATA_AWARE = ("filet", "lora-da", "lora-ga", "lora-one", "eva", "corda")
BUDGETED = "filet (10 % memory)"
DASH = "lora-dash, between phases"
PEFT_NAMES = {"pissa_niter_16": "pissa (16 iterations)", "lora_ga": "lora-ga"}


class Reader:
    """The rows of one record, by stage and name."""

    def __init__(self, record: Record) -> None:
        self.record = record
        subject = record["subject"]
        self.factor = float(subject.get("extrapolation", 1.0))
        self.total = int(subject["tokens"])
        self.part = min((row["tokens"] for row in record["rows"] if row["tokens"]), default=self.total)

    def row(self, stage: str, name: str, tokens: int | None = None) -> dict[str, Any] | None:
        """The row of a stage; by default on whatever number of tokens it ran."""
        found = [r for r in self.record["rows"] if (r["stage"], r["name"]) == (stage, name)]
        return next((r for r in found if tokens is None or r["tokens"] == tokens), None)

    def seconds(self, stage: str, name: str, tokens: int | None = None) -> float | None:
        """Median seconds, if the stage finished."""
        row = self.row(stage, name, tokens)
        return row["median"] if row and row["status"] == "ok" else None

    def least(self, stage: str, name: str) -> float | None:
        """Median seconds; of a stage that was stopped, the time that it had: a lower bound."""
        row = self.row(stage, name)
        return row["median"] if row and row["status"] in ("ok", "stopped") else None

    def over_bare(self, row: dict[str, Any] | None) -> float | None:
        """Seconds ÷ the bare pass of the same tokens: the median over rounds where both ran in every round, else of medians."""
        if row is None or not row["seconds"]:
            return None
        bare = self.row("bare", "bare pass", row["tokens"] or self.total)
        if bare is None:
            return None
        if row["tokens"] == self.total and len(row["seconds"]) == len(bare["seconds"]):
            return median(own / one for own, one in zip(row["seconds"], bare["seconds"], strict=True))
        return float(row["median"] / bare["median"])

    def whole(self, name: str, tokens: int) -> float | None:
        """Calibrate and initialise (seconds)."""
        calibrate, initialise = self.seconds("calibrate", name, tokens), self.seconds("initialise", name)
        return None if calibrate is None or initialise is None else calibrate + initialise


def targets(record: Record) -> list[dict[str, Any]]:
    """What was aimed at, what was reached, and whether that is enough; None where it was not measured."""
    read = Reader(record)
    cpu = record["subject"]["device"] == "cpu"

    def times(a: float | None, b: float | None) -> float | None:
        return None if a is None or not b else a / b

    def plus(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + b

    init = read.over_bare(read.row("initialise", "filet"))
    filet_row, budgeted = (read.row("calibrate", name, read.total) for name in ("filet", BUDGETED))
    bare = read.row("bare", "bare pass", read.total)

    def extra(row: dict[str, Any] | None) -> float | None:
        if row is None or bare is None:
            return None
        return float(max(0, row["peak_bytes"] - bare["peak_bytes"])) / float(record["subject"]["model_bytes"])

    released = next((r for r in record["rows"] if r["name"].startswith("lora-da, ") and r["status"] == "ok"), None)
    filet, every = (1.5, 2.2) if cpu else (2.0, 3.0)
    found = [
        ("FILet, calibrate + initialise ÷ bare pass", "≤", filet, plus(read.over_bare(filet_row), init)),
        ("its peak memory above the bare pass's ÷ model", "≤", 0.1, extra(filet_row)),
        ("FILet with memory_budget = 10 % of the model", "≤", filet, plus(read.over_bare(budgeted), init)),
        ("its peak memory above the bare pass's ÷ model", "≤", 0.1, extra(budgeted)),
        ("six data-aware methods in one pass ÷ bare pass", "≤", every, read.over_bare(read.row("calibrate", "all"))),
        (
            f"{released['name'] if released else 'LoRA-DA as released'} at batch 1 ÷ our one pass",
            "≥",
            5.0,
            times(released["median"] if released else None, read.seconds("calibrate", "lora-da", read.part)),
        ),
        ("EVA: PEFT's ÷ ours", "≥", 10.0, times(read.least("peft", "eva"), read.whole("eva", read.part))),
        ("CorDA: PEFT's ÷ ours", "≥", 3.0, times(read.least("peft", "corda"), read.whole("corda", read.part))),
    ]
    if not cpu:
        full = read.least("peft", "pissa")
        found += [
            (f"{name}: PEFT's full SVD ÷ ours", "≥", 10.0, times(full, read.seconds("initialise", name)))
            for name in ("pissa", "milora")
        ]
    found += [
        # The aim is 1e-3; where the problem itself is worse conditioned, no farther off than PEFT's own float32 solver.
        (
            f"{row['method']}: largest angle to the exact subspace (rad)",
            "≤",
            max(1e-3, row["peft_exact"] or 0 if row["method"] in ("eva", "corda") else 0),
            row["ours_exact"],
        )
        for row in record["angles"]
    ]
    return [
        {"what": what, "sign": sign, "aim": aim, "reached": reached, "met": _met(sign, aim, reached)}
        for what, sign, aim, reached in found
    ]


def _met(sign: str, aim: float, reached: float | None) -> bool | None:
    if reached is None:
        return None
    return reached >= aim if sign == "≥" else reached <= aim


def table(record: Record) -> str:
    """Markdown: every stage with its ratio to the bare pass of the same tokens, the angles, the targets."""
    read = Reader(record)
    subject = record["subject"]
    hardware = record["hardware"]
    versions = record["versions"]
    load = record["load_average"]
    source = f"commit {(record['git_sha'] or 'unknown')[:10]}{' with changes' if record['git_dirty'] else ''}"
    lines = [
        f"# Initialisation time: {subject['name']} ({subject['weights']} weights), {hardware.get('gpu', hardware['cpu'])}",
        "",
        f"{subject['parameters'] / 1e6:.0f} M parameters in {subject['dtype']}, {subject['target_layers']} layers, "
        f"r = {subject['rank']}; {subject['data']}: {subject['tokens']} tokens in sequences of {subject['length']}, "
        f"batches of {subject['batch_size']}. {record['threads']} threads of {hardware['cores']} cores; "
        f"torch {versions['torch']}, transformers {versions['transformers']}, peft {versions['peft']}, "
        f"Python {versions['python']}; {source}, "
        f"{record['created'][:10]}. "
        f"Load average before {load['before'][0]:.1f}, after {load['after'][0]:.1f}. `{record['command']}`",
        "",
    ]
    if read.factor > 1:
        lines += [
            f"A slice of {subject['blocks']} blocks with the vocabulary cut in proportion: the last column is seconds × "
            f"{read.factor:g}, an estimate for the whole model, not a measurement. Memory is the slice's.",
            "",
        ]
    whole = " whole model |" if read.factor > 1 else ""
    lines += [
        f"| stage | method | tokens | median s | min s | ÷ bare pass | peak memory |{whole}",
        f"|---|---|--:|--:|--:|--:|--:|{'--:|' if whole else ''}",
    ]
    for row in record["rows"]:
        over = read.over_bare(row)
        if row["status"] == "not measured":
            cells = ["", "not measured: " + row["note"], "", "", ""]
        elif row["status"] == "failed":
            cells = [_count(row), "failed: " + row["note"].replace("|", "/"), "", "", ""]
        else:
            stopped = row["status"] == "stopped"
            least = "> " if stopped else ""
            ratio = f"{least}{over:.2f}" if over else ""
            middle = f"stopped after {row['median']:.0f}" if stopped else f"{row['median']:.2f}"
            cells = [_count(row), middle, f"{row['min']:.2f}", ratio, f"{row['peak_bytes'] / 2**20:.0f} MiB"]
        if whole:
            cells.append(f"{row['median'] * read.factor:.1f} s" if row["status"] == "ok" else "")
        stage = {"peft": "PEFT's own", "released": "released code"}.get(row["stage"], row["stage"])
        lines.append(f"| {stage} | {row['name']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Stages without tokens are set against the bare pass of {read.total} tokens. Ratios are medians over rounds, each stage "
        "against the bare pass of its own round. Peak memory is what a stage takes above "
        "the level before it, activations and results included.",
        "",
        "| subspace | layers | with a gap | ours to exact | PEFT's to exact | ours to PEFT's |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in record["angles"]:
        angles = [
            f"{row[key]:.1e}" if row[key] is not None else "–" for key in ("ours_exact", "peft_exact", "ours_peft")
        ]
        lines.append(f"| {row['method']} | {row['layers']} | {row['with_gap']} | " + " | ".join(angles) + " |")
    lines += [
        "",
        "Largest principal angles (radians) over the layers of one block whose singular values on both sides of the cut differ "
        "by 0.1 % or more; exact is float64. PEFT's EVA and CorDA solvers were given the same inputs.",
        "",
        "| target | aim | reached | met |",
        "|---|--:|--:|---|",
    ]
    for row in record["targets"]:
        reached = "not measured" if row["reached"] is None else f"{row['reached']:.3g}"
        met = {True: "yes", False: "no", None: "–"}[row["met"]]
        lines.append(f"| {row['what']} | {row['sign']} {row['aim']:g} | {reached} | {met} |")
    if counted := record.get("counted"):
        lines += ["", "| counted multiplications (`benchmarks/init_floor.py`) | ratio |", "|---|--:|"]
        lines += [f"| {what} | {ratio:.2f} |" for what, ratio in counted.items()]
    return "\n".join(lines) + "\n"


def _count(row: dict[str, Any]) -> str:
    return str(row["tokens"]) if row["tokens"] else ""


def draw(files: list[Path], target: Path) -> str | None:
    """FILet's Figure 4 from these records: seconds that each method takes on top of plain LoRA, by model.

    Returns:
        The files written (PNG and SVG), or None without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        print("No figure: matplotlib is not installed (pip install 'hubinit[plot]').", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = sorted((json.loads(file.read_text()) for file in files), key=lambda r: _parameters(r))
    series = [_extra(record) for record in records]
    found = dict.fromkeys(name for values in series for name in values)
    methods = list(dict.fromkeys(_method(name) for name in found))
    names = sorted(found, key=lambda name: methods.index(_method(name)))  # PEFT's beside ours
    pyplot.rcParams["svg.hashsalt"] = "hubinit"  # the same records give the same file
    colours = pyplot.get_cmap("tab20")
    figure, axes = pyplot.subplots(figsize=(max(9.0, 2 + 5.0 * len(records)), 5), layout="constrained")
    width = 0.85 / max(1, len(names))
    for index, name in enumerate(names):
        peft = name.startswith("PEFT ")
        for position, values in enumerate(series):
            if name not in values:
                continue
            seconds, stopped = values[name]
            bar = axes.bar(
                position + (index - len(names) / 2) * width,
                seconds,
                width * 0.92,
                color=colours(methods.index(_method(name)) % 20),
                hatch=("xxx" if "(" in name else "///") if peft else None,
                edgecolor="white",
                linewidth=0.5,
                align="edge",
                label=name if position == next(p for p, v in enumerate(series) if name in v) else None,
            )
            axes.bar_label(bar, labels=[f"> {seconds:.0f}" if stopped else f"{seconds:.2g}"], fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.set_ylabel("seconds on top of plain LoRA")
    axes.set_xticks(range(len(records)), [_caption(record) for record in records])
    hardware = records[-1]["hardware"]
    axes.set_title(
        f"Extra initialisation time, r = {records[-1]['subject']['rank']}, {hardware.get('gpu', hardware['cpu'])}",
        fontsize=10,
    )
    axes.legend(fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    for suffix in (".png", ".svg"):
        metadata = {"Date": None} if suffix == ".svg" else None
        figure.savefig(target.with_name(target.name + suffix), dpi=150, metadata=metadata)
    pyplot.close(figure)
    return f"{target}.png, {target}.svg"


def _method(name: str) -> str:
    """The method behind a bar: `pissa` for `PEFT pissa (16 iterations)`."""
    return name.removeprefix("PEFT ").split(" (")[0]


def _parameters(record: Record) -> float:
    return float(record["subject"]["parameters"]) * float(record["subject"].get("extrapolation", 1.0))


def _caption(record: Record) -> str:
    read, subject = Reader(record), record["subject"]
    note = f"\n{subject['blocks']} blocks × {read.factor:g}, extrapolated" if read.factor > 1 else ""
    weights = "real" if subject["weights"] == "real" else "random"
    return f"{subject['name']} ({weights} weights, {subject['dtype']})\n{read.part} tokens{note}"


def _extra(record: Record) -> dict[str, tuple[float, bool]]:
    """Method → seconds above plain LoRA's, and whether that is a lower bound. Data-aware ones include their calibration."""
    read = Reader(record)
    plain = read.seconds("initialise", "lora") or 0.0
    found: dict[str, tuple[float, bool]] = {}
    for row in record["rows"]:
        if row["stage"] == "initialise" and row["status"] == "ok" and row["name"] not in ("lora", "lora-dash"):
            seconds = read.whole(row["name"], read.part) if row["name"] in DATA_AWARE else row["median"]
            if seconds is not None and seconds > plain:
                found[row["name"]] = ((seconds - plain) * read.factor, False)
    plain = read.seconds("peft", "lora") or 0.0
    for row in record["rows"]:
        if row["stage"] == "peft" and row["status"] in ("ok", "stopped") and row["name"] != "lora":
            label = PEFT_NAMES.get(row["name"], row["name"])
            found[f"PEFT {label}"] = (max(row["median"] - plain, 1e-3) * read.factor, row["status"] == "stopped")
        if row["name"] == DASH and row["status"] in ("ok", "stopped"):
            found["lora-dash (between its phases)"] = (row["median"] * read.factor, row["status"] == "stopped")
    return found


if __name__ == "__main__":
    chosen = [Path(argument) for argument in sys.argv[1:]]
    print(draw(chosen, chosen[0].with_name("init_time")))
