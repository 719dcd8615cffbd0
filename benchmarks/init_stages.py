"""The stages that `init_time.py` measures, one call each: the bare pass, hubinit's, PEFT's own, and what
LoRA-DA's and LoRA-Dash's released codes do.

A stage runs in this process under a time limit. PEFT's initialisers change the base, so each gets a copy of the model, made
before its clock starts.
"""

import ctypes
import gc
import math
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from hubinit.calibration.loss import loss_gradient, model_inputs, supervise
from hubinit.calibration.passes import to_model
from hubinit.errors import HubinitError
from hubinit.models.layers import target_layers, weight_of

Batches = Sequence[dict[str, Tensor]]
RELEASED_GROUP = 8  # blocks whose Fisher factors LoRA-DA's released code accumulates in one pass


class Stopped(BaseException):
    """The time limit; not an Exception, so that no library swallows it."""


@dataclass
class Row:
    """One line of the record: every repetition of one stage."""

    stage: str  # bare, calibrate, initialise, peft, released
    name: str
    tokens: int
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0  # above the level before the stage, largest repetition
    status: str = "ok"  # or: stopped, failed, not measured
    note: str = ""

    @property
    def median(self) -> float:
        """Median seconds; infinite when nothing was measured."""
        return median(self.seconds) if self.seconds else math.inf

    def record(self) -> dict[str, Any]:
        """As JSON."""
        timed = {"median": self.median, "min": min(self.seconds)} if self.seconds else {}
        return {**asdict(self), **timed}


class Clock:
    """Runs stages and keeps their rows, in order, until `end` (of `time.perf_counter`)."""

    def __init__(self, device: torch.device, say: Callable[[str], None], end: float = math.inf) -> None:
        self.device = device
        self.say = say
        self.end = end
        self.rows: dict[tuple[str, str, int], Row] = {}

    def run(self, stage: str, name: str, tokens: int, work: Callable[[], Any], limit: float | None = None) -> Any:
        """Measures `work` once more and returns its result, None when it was stopped or failed."""
        row = self.rows.setdefault((stage, name, tokens), Row(stage, name, tokens))
        left = self.end - time.perf_counter()
        if left <= 0:
            if not row.seconds:
                row.status, row.note = "not measured", "the time of the whole run was over"
            return None
        self._settle()
        before, result = self._memory("VmRSS"), None
        self._reset_peak()
        start = time.perf_counter()
        try:
            with _time_limit(min(limit or math.inf, left)):
                result = work()
            self._sync()
        except Stopped:
            if row.seconds:  # its other repetitions stand
                return None
            row.status = "stopped"
        except (
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
            NotImplementedError,
            KeyError,
            HubinitError,
        ) as error:
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            row.status, row.note = "failed", f"{type(error).__name__}: {first}"[:200]
        row.seconds.append(time.perf_counter() - start)
        row.peak_bytes = max(row.peak_bytes, self._memory("VmHWM") - before)
        shown = row.note if row.status == "failed" else f"{row.seconds[-1]:.1f} s"
        self.say(f"{stage:<11}{name:<28}{tokens or '':>7}  {row.status if row.status != 'ok' else ''} {shown}")
        return result

    def skip(self, stage: str, name: str, reason: str) -> None:
        """Notes a stage that is not measured, and why."""
        self.rows[stage, name, 0] = Row(stage, name, 0, status="not measured", note=reason)

    def row(self, stage: str, name: str, tokens: int = 0) -> Row | None:
        """The row of a stage, if it has one."""
        return self.rows.get((stage, name, tokens))

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _settle(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.synchronize(self.device)
        with suppress(OSError, AttributeError):  # glibc only: freed memory would hide the next stage's peak
            ctypes.CDLL("libc.so.6").malloc_trim(0)

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # peak resident set size

    def _memory(self, field: str) -> int:
        """Bytes now (VmRSS) or at the peak since the last reset (VmHWM); a GPU's own counters where there is one."""
        if self.device.type == "cuda":
            counter = torch.cuda.memory_allocated if field == "VmRSS" else torch.cuda.max_memory_allocated
            return int(counter(self.device))
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
        return 0


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises Stopped in the block after so many seconds, as soon as Python runs again."""

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds if math.isfinite(seconds) else 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tokens_of(batches: Batches) -> int:
    """Attended tokens."""
    return sum(int(batch["attention_mask"].sum()) for batch in batches)


def bare_pass(model: Any, batches: Batches) -> None:
    """Forward and activation backward of all batches with frozen weights; nothing is recorded.

    The loss gradient is the calibration's own, so that only recording makes the difference.
    """
    with _frozen(model):
        for batch in batches:
            supervision = supervise(model, batch)
            inputs = to_model(model, model_inputs(model, batch, supervision))
            start = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()  # (B, S, n)
            logits = model(inputs_embeds=start, **inputs).logits
            logits = logits.reshape(-1, logits.shape[-1])  # (rows, classes)
            logits.backward(loss_gradient(logits.detach(), supervision)[0])


def released_passes(model: Any) -> int:
    """How many passes over the data LoRA-DA's released code makes: one per eight blocks and one for the gradients."""
    blocks = {_block(name) for name in target_layers(model)}
    return -(-len(blocks) // RELEASED_GROUP) + 1


def released_lora_da(model: Any, batches: Batches) -> None:
    """LoRA-DA's statistics in the released code's way: batch 1, a pass per eight blocks, and one more for the gradients."""
    layers = target_layers(model)
    blocks = list(dict.fromkeys(_block(name) for name in layers))
    examples = [
        {key: value[i : i + 1] for key, value in batch.items()}
        for batch in batches
        for i in range(len(batch["input_ids"]))
    ]
    with _frozen(model):
        for start in range(0, len(blocks), RELEASED_GROUP):
            group = set(blocks[start : start + RELEASED_GROUP])
            chosen = [module for name, module in layers.items() if _block(name) in group]
            handles = [module.register_forward_hook(partial(_fisher, {"x": 0.0, "g": 0.0})) for module in chosen]
            for example in examples:
                _mean_loss(model, example).backward()
            for handle in handles:
                handle.remove()
        weights = [module.weight for module in layers.values()]
        for weight in weights:
            weight.requires_grad_(True)
        for example in examples:
            _mean_loss(model, example).backward()
        for weight in weights:
            weight.grad = None


def released_lora_dash(model: Any, rank: int, directions: int = 8) -> None:
    """What LoRA-Dash's released code does between its phases: the directions whose singular values the warm-up changed most.

    Every weight gets a full SVD; of the warmed-up update `BA` each direction's change `u_iᵀ B A v_i` is set against its σ_i.
    """
    for name, layer in target_layers(model).items():
        weight = weight_of(layer, name)  # (m, n)
        (m, n), device = weight.shape, weight.device
        B = torch.randn(m, rank, device=device)  # (m, r); time does not depend on values
        A = torch.randn(rank, n, device=device)  # (r, n)
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)  # (m, k), (k,), (k, n)
        change = ((U.T @ B) * (Vh @ A.T)).sum(1)  # (k,)
        chosen = (change.abs() / (S + 1e-6)).topk(directions).indices
        _ = U[:, chosen].contiguous(), Vh[chosen].contiguous()


def _block(name: str) -> str:
    """The index in a layer's name, `3` of `model.layers.3.mlp.up_proj`."""
    found = re.search(r"\.(\d+)\.", name)
    return found[1] if found else ""


def _fisher(total: dict[str, Any], module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    x = args[0].detach().reshape(-1, args[0].shape[-1]).float()  # (T, n)
    total["x"] = total["x"] + x.T @ x  # (n, n)

    def add(gradient: Tensor) -> None:
        total["g"] = total["g"] + gradient.reshape(-1, gradient.shape[-1]).float().square().sum(0)  # (m,)

    output.register_hook(add)


def _mean_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    inputs = {key: value.to(model.device) for key, value in batch.items()}
    embedded = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()  # (1, S, n)
    loss: Tensor = model(inputs_embeds=embedded, use_cache=False, **inputs).loss
    return loss


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)


def peft_stages(rank: int, batches: Batches) -> dict[str, Callable[[Any], Any]]:
    """PEFT's own initialisers by name: each takes a model, which it changes, and returns a PeftModel.

    Args:
        rank: r, with alpha = 2r.
        batches: for those that need data. CorDA's takes one example at a time, its only way.
    """
    from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights, preprocess_loraga
    from peft.tuners.lora.config import CordaConfig, KasaConfig, LoraGAConfig
    from peft.tuners.lora.corda import preprocess_corda

    def config(model: Any, **options: Any) -> Any:
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(target_layers(model)), **options)

    def plain(init: str | bool, model: Any) -> Any:
        return get_peft_model(model, config(model, init_lora_weights=init))

    def kasa(model: Any) -> Any:
        return get_peft_model(model, config(model, kasa_config=KasaConfig()))

    def lora_ga(model: Any) -> Any:
        settings = config(model, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())

        def step() -> None:
            for batch in batches:
                model(**to_model(model, batch), use_cache=False).loss.backward()

        preprocess_loraga(model, settings, step)
        return get_peft_model(model, settings)

    def corda(model: Any) -> Any:
        settings = config(model, init_lora_weights="corda", corda_config=CordaConfig(corda_method="ipm"))

        def run() -> None:
            for batch in batches:
                for ids in batch["input_ids"].split(1):
                    model(input_ids=ids.to(model.device), use_cache=False)

        preprocess_corda(model, settings, run_model=run)
        return get_peft_model(model, settings)

    def eva(model: Any) -> Any:
        settings = config(model, init_lora_weights="eva", eva_config=EvaConfig())
        wrapped = get_peft_model(model, settings)
        initialize_lora_eva_weights(wrapped, list(batches), show_progress_bar=False)
        return wrapped

    return {
        "lora": partial(plain, True),
        "pissa": partial(plain, "pissa"),
        "pissa_niter_16": partial(plain, "pissa_niter_16"),
        "olora": partial(plain, "olora"),
        "kasa": kasa,
        "lora_ga": lora_ga,
        "corda": corda,
        "eva": eva,
    }
