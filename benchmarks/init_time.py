"""What does an initialisation cost? `make bench-init`: everything in units of the bare pass, measured in one run.

The bare pass is forward and activation backward of the calibration batches with frozen weights and nothing recorded. Beside it:
`calibrate` for every data-aware method and for all at once, `initialize` for every method, PEFT's own initialisers under a time
limit, LoRA-DA's statistics in the released code's five passes, LoRA-Dash's step between its phases, peak memory, and whether
the fast solves find the same subspaces as exact ones. Repetitions alternate between the stages, because machines are shared;
medians and minima are recorded.

    python benchmarks/init_time.py                          # SmolLM2-135M from the embedded Hub
    python benchmarks/init_time.py --shape smollm2-135m     # its shape with random weights: no Hub, no download
    python benchmarks/init_time.py --shape llama3-8b --tokens 65536 --batch-size 32     # on a GPU
    python benchmarks/init_time.py --shape llama3-8b --layers 4                         # a slice, extrapolated
"""

import argparse
import copy
import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from hubinit.errors import HubinitError

RESULTS = Path(__file__).resolve().parent / "results"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", default="smollm2-135m", help="alias, Hub id or folder (default: smollm2-135m)")
    what.add_argument("--shape", help="smollm2-135m, llama3.2-1b, llama3.2-3b or llama3-8b, with random weights")
    parser.add_argument("--layers", type=int, help="blocks of a slice of the shape; whole-model times are extrapolated")
    parser.add_argument("--hub", default="embedded", help="where the model is: embedded (default), offline or a URL")
    parser.add_argument("--tokens", type=int, default=16384, help="calibration tokens of the bare pass, FILet and all")
    parser.add_argument(
        "--compare-tokens", type=int, default=4096, help="of the single methods, PEFT's and the released"
    )
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument(
        "--rounds", type=int, default=3, help="repetitions of the bare pass, FILet and all, interleaved"
    )
    parser.add_argument("--limit", type=float, default=90, help="seconds for each of PEFT's initialisers")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="for everything; what is left then is not measured"
    )
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--device", help="cpu or cuda; default: a GPU when there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", help="of the machine in file names; default: the GPU's name, or cpu")
    return parser.parse_args()


def main() -> int:
    """Measures, writes JSON, table and figure."""
    options = arguments()
    try:
        if options.shape:
            return benchmark(options)
        from hubinit.cli.environment import connect

        with connect(None if options.hub == "none" else options.hub):
            return benchmark(options)
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def benchmark(options: argparse.Namespace) -> int:
    """The whole run on one model or shape."""
    import torch
    from init_accuracy import summary
    from init_floor import floors, llama_shape
    from init_report import draw, table, targets
    from init_shapes import SHAPES, subject
    from init_stages import Clock, released_passes

    if options.shape and options.shape not in SHAPES:
        raise HubinitError(f"--shape wants one of {', '.join(SHAPES)}, not '{options.shape}'.")
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")  # PEFT's and transformers' advice would drown the table
    started, load, source = time.perf_counter(), os.getloadavg(), provenance(options)
    what = subject(options)
    device = what.model.device
    size = f"{what.facts['parameters'] / 1e6:.0f} M"
    say(f"{what.facts['name']}: {size}, {what.facts['dtype']} on {device.type}, load {load[0]:.1f}")
    clock = Clock(device, say, started + options.seconds)
    angles = measure(clock, what, options)
    record = {
        **source,
        "load_average": {"before": load, "after": os.getloadavg()},
        "threads": torch.get_num_threads(),
        "subject": {**what.facts, "rank": options.rank, "rounds": options.rounds, "limit": options.limit},
        "rows": [row.record() for row in clock.rows.values()],
        "run_seconds": round(time.perf_counter() - started, 1),
    }
    shape, passes = llama_shape(what.model.config.to_dict()), released_passes(what.model)
    record["counted"] = floors(shape, options.length, options.length * options.batch_size, passes)
    record["layer_angles"], record["angles"] = angles, summary(angles)
    record["targets"] = targets(record)
    text = table(record)
    print("\n" + text)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = options.name or (torch.cuda.get_device_name().split()[-1].lower() if device.type == "cuda" else "cpu")
    slice_name = f"-{options.layers}layers" if what.facts.get("extrapolation", 1) > 1 else ""
    kind = "-shape" if options.shape else ""
    stem = options.out / f"init_time-{machine}-{what.facts['name'].replace('/', '_')}{kind}{slice_name}"
    stem.with_name(stem.name + ".json").write_text(json.dumps(record, indent=1) + "\n")
    stem.with_name(stem.name + ".md").write_text(text)
    drawn = draw(sorted(options.out.glob(f"init_time-{machine}-*.json")), options.out / f"init_time-{machine}")
    print(f"Written: {stem}.json, {stem}.md" + (f", {drawn}" if drawn else ""))
    return 0


def measure(clock: Any, what: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All stages in order; returns the subspace agreement."""
    import torch
    from init_accuracy import agreement, factors_of
    from init_report import BUDGETED, DASH, DATA_AWARE
    from init_shapes import block_modules
    from init_stages import bare_pass, peft_stages, released_lora_da, released_lora_dash, released_passes, tokens_of

    import hubinit
    from hubinit.adapters import detach

    model, batches = what.model, what.batches
    few = batches[: max(1, options.compare_tokens // tokens_of(batches[:1]))]
    budget = what.facts["model_bytes"] // 10
    bare_pass(model, batches[:1])  # warm-up

    def calibrated(names: list[str], data: Any, memory_budget: int | None = None) -> Any:
        return hubinit.calibrate(model, data, methods=names, memory_budget=memory_budget)

    def initialised(name: str, calibration: Any) -> None:
        detach(hubinit.initialize(model, name, rank=options.rank, calibration=calibration))

    everything = None
    total, part = tokens_of(batches), tokens_of(few)
    for _ in range(options.rounds):
        clock.run("bare", "bare pass", total, lambda: bare_pass(model, batches))
        clock.run("calibrate", "filet", total, lambda: calibrated(["filet"], batches))
        clock.run("calibrate", BUDGETED, total, lambda: calibrated(["filet"], batches, budget))
        everything = None  # the sums of the round before are not needed twice in memory
        everything = clock.run("calibrate", "all", total, lambda: calibrated(list(DATA_AWARE), batches))
    for name in hubinit.METHODS:
        clock.run("initialise", name, 0, lambda name=name: initialised(name, everything), options.limit * 5)
    everything = None
    clock.run("bare", "bare pass", part, lambda: bare_pass(model, few))
    for name in DATA_AWARE:
        clock.run("calibrate", name, part, lambda name=name: calibrated([name], few))
    clock.run("bare", "bare pass", part, lambda: bare_pass(model, few))
    passes = released_passes(model)
    clock.run("released", f"lora-da, {passes} passes", part, lambda: released_lora_da(model, few))
    pissa: dict[str, Any] = {}
    for name, stage in peft_stages(options.rank, few).items():
        try:
            fresh = copy.deepcopy(model)
        except torch.OutOfMemoryError:
            clock.skip("peft", name, "no memory for a copy of the model, which it changes")
            continue
        tokens = part if name in ("lora_ga", "corda", "eva") else 0
        made = clock.run("peft", name, tokens, lambda stage=stage, fresh=fresh: stage(fresh), options.limit)
        if name == "pissa" and made is not None:
            pissa = factors_of(made, block_modules(model, what.facts["blocks"] // 2))
        del fresh, made
    clock.run("released", DASH, 0, lambda: released_lora_dash(model, options.rank), options.limit)
    few_subject = type(what)(model, few, what.facts)
    angles = clock.run(
        "accuracy",
        "subspaces of one block",
        0,
        lambda: agreement(few_subject, calibrated(["eva", "corda"], few), options.rank, pissa),
    )
    return angles or []


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    """Command, versions, hardware and source state."""
    from hubinit.runs.costs import provenance as facts

    shown = " ".join(
        ["python benchmarks/init_time.py", *(word for word in sys.argv[1:] if str(Path.home()) not in word)]
    )
    return facts(shown).model_dump(mode="json")


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
