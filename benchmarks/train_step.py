"""What does a training step cost? Every method beside plain PEFT's LoRA, in the same loop, on the same weights, in one run.

Before each step of a method comes one step of plain PEFT's LoRA (same rank, targets, optimiser and batch), and their ratio is
what counts: a shared machine changes its speed within seconds. The median, the smallest and the largest ratio are recorded, and
the multiply-adds of the adapters, so that the ratio can be compared with its floor. "two adapters" is a residual method as plain
PEFT would train it: the adapter and its frozen anchor both active.

    python benchmarks/train_step.py                                   # SmolLM2-135M's shape with random weights: no Hub
    python benchmarks/train_step.py --layers 6 --methods pissa,filet  # a slice
    python benchmarks/train_step.py --model smollm2-135m --hub embedded
"""

import argparse
import copy
import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from init_shapes import SHAPES, chosen_dtype, real, shaped
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import hubinit
from hubinit.adapters.base import adapted_layers
from hubinit.errors import HubinitError
from hubinit.methods import METHODS
from hubinit.models.layers import shape_of, target_layers
from hubinit.runs.costs import peak_memory, provenance, reset_peak_memory

RESULTS = Path(__file__).resolve().parent / "results"
TWO_ADAPTERS = "two adapters"
Batch = dict[str, Tensor]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shape", default="smollm2-135m", choices=SHAPES, help="random weights of this shape")
    what.add_argument("--model", help="alias, Hub id or folder, instead of a shape")
    parser.add_argument("--hub", default="offline", help="where the model is: embedded, offline (default) or a URL")
    parser.add_argument("--layers", type=int, help="blocks of a slice of the shape")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: all that are registered")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7, help="measured steps of each method, after one to warm up")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--device", help="cpu or cuda; default: a GPU when there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--seconds", type=float, default=math.inf, help="for everything; no method starts after that")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    """Measures, prints a table and writes the record."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.model is None:
            record = measure(options)
        else:
            from hubinit.cli.environment import connect

            with connect(options.hub):
                record = measure(options)
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"train_step-{record['device']}-{record['model']['name'].replace('/', '-')}.json"
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(f"{path} written.")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run: a record with one row per method."""
    end = time.perf_counter() + options.seconds
    names = options.methods.split(",")
    if unknown := set(names) - METHODS.keys():
        raise HubinitError(f"Not a registered method: {', '.join(sorted(unknown))}.")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.model:
        base, _, facts = real(options.model, options.dtype, device)
    else:
        base, facts = shaped(options.shape, options.layers, device, chosen_dtype(options.dtype, device))
    batch = random_batch(base, options.batch_size, options.length, device)
    data_aware = [name for name in names if METHODS[name].statistics(METHODS[name].options())]
    calibration = hubinit.calibrate(base, [batch], methods=data_aware) if data_aware else None

    def attach(name: str) -> Any:
        return hubinit.initialize(shared_copy(base), name, rank=options.rank, calibration=calibration)

    made: dict[str, Callable[[], Any]] = {TWO_ADAPTERS: lambda: two_adapters(shared_copy(base), options.rank)}
    made |= {name: lambda name=name: attach(name) for name in names}  # type: ignore[misc]
    plain = Loop(get_peft_model(shared_copy(base), plain_config(base, options.rank)), batch)
    work = floating_point_work(base, options.rank, options.batch_size * options.length)
    print(
        f"{facts['name']}, {base.dtype}, {device}, {torch.get_num_threads()} threads; steps beside plain PEFT's LoRA:"
    )
    rows = {}
    for name, make in made.items():
        if time.perf_counter() > end:
            print(f"  {name:14} not measured: the time of the whole run was over")
            continue
        loop = Loop(make(), batch)
        anchored = name == TWO_ADAPTERS or loop.model.hubinit_report.anchor != "none"
        reset_peak_memory()
        loop.step()
        peak = peak_memory()
        plain.step()
        pairs = [(plain.step(), loop.step()) for _ in range(options.rounds)]
        ratios = [own / beside for beside, own in pairs]
        rows[name] = {
            "seconds": statistics.median(own for _, own in pairs),
            "plain_lora_seconds": statistics.median(beside for beside, _ in pairs),
            "fastest_ratio": min(own for _, own in pairs) / min(beside for beside, _ in pairs),
            "median_ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "peak_bytes": peak,  # weights included, and the adapter of plain LoRA that is beside it
            "anchored": anchored,
        }
        print(
            f"  {name:14} {'anchor' if anchored else '':7} {rows[name]['seconds']:7.3f} s   × {rows[name]['median_ratio']:.3f}"
            f"  (fastest × {rows[name]['fastest_ratio']:.3f}, {min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
        del loop
    return {
        "model": facts,
        "device": device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "rank": options.rank,
        "tokens_per_step": options.batch_size * options.length,
        "rounds": options.rounds,
        "multiply_adds": work,
        "methods": rows,
        **provenance(shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]])).model_dump(mode="json"),
    }


class Loop:
    """A model with its optimiser; `step` is one optimiser step."""

    def __init__(self, model: Any, batch: Batch) -> None:
        self.model, self.batch = model.train(), batch
        self.optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step(self) -> float:
        """Forward, backward and update; the seconds they took."""
        begun = time.perf_counter()
        self.model(**self.batch).loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - begun


def shared_copy(base: nn.Module) -> nn.Module:
    """A model of its own modules and the base's own weights, so that many adapted models take the memory of one base."""
    return copy.deepcopy(base, {id(p): p for p in base.parameters()})


def plain_config(base: nn.Module, rank: int) -> LoraConfig:
    """Plain PEFT's LoRA on the same targets, with the same rank and scaling."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(target_layers(base)), task_type="CAUSAL_LM")


def two_adapters(base: nn.Module, rank: int) -> Any:
    """Adapter and frozen anchor as two active adapters of plain PEFT."""
    model = get_peft_model(base, plain_config(base, rank))
    model.add_adapter("anchor", plain_config(base, rank))
    model.base_model.set_adapter(["default", "anchor"])
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_(std=0.02)
            layer.lora_A["anchor"].weight.copy_(layer.lora_A["default"].weight)
            layer.lora_B["anchor"].weight.copy_(-layer.lora_B["default"].weight)
            layer.lora_A["anchor"].requires_grad_(False)
            layer.lora_B["anchor"].requires_grad_(False)
    return model


def random_batch(base: Any, size: int, length: int, device: torch.device) -> Batch:
    """Random tokens, every one of them a label."""
    ids = torch.randint(base.config.vocab_size, (size, length), generator=torch.Generator().manual_seed(0)).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def floating_point_work(base: Any, rank: int, tokens: int) -> dict[str, float]:
    """Multiply-adds of one step, attention's products left out.

    The frozen base takes two products per linear layer (output, gradient of the input), the head included. Its adapter takes
    three of T·r·(m + n); with an anchor, five.
    """
    shapes = [shape_of(layer) for layer in target_layers(base).values()]
    linear = sum(m * n for m, n in shapes) + base.config.vocab_size * base.config.hidden_size
    adapter = tokens * rank * sum(m + n for m, n in shapes)
    lora, anchored = 2 * tokens * linear + 3 * adapter, 2 * tokens * linear + 5 * adapter
    return {"base": 2.0 * tokens * linear, "lora": 3.0 * adapter, "anchored": 5.0 * adapter, "ratio": anchored / lora}


if __name__ == "__main__":
    sys.exit(main())
