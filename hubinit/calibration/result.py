"""What a calibration gives: the raw sums of every layer, tied to the model they were computed on, saved and added exactly."""

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hubinit.calibration.clock import Work, add_up
from hubinit.errors import CalibrationError
from hubinit.models.layers import base_of, is_quantised, linear_layers, shape_of
from hubinit.numerics.statistics import LayerStatistics, Statistic
from hubinit.paths import sha256_of

MANIFEST = "calibration.json"
FORMAT = 2  # 1: one count of tokens for both sides; G of label positions only


@dataclass(frozen=True)
class Calibration:
    """The statistics of a model on some data.

    Attributes:
        layers: module name → sums. Layers that share an input share the tensors of their input sums.
        fingerprint: of the model, see `fingerprint`.
        fisher: `empirical` or `sampled`: whose labels the output gradients used.
        tokens: `attended` or `labels`: which tokens were counted.
        examples: how many examples were seen.
        loss: their mean negative log-likelihood per label token; NaN when no gradients were needed.
        label_tokens: how many label tokens that mean is over.
        seconds: what the passes took in all; of added or merged calibrations, all of theirs.
        work: what the parts of the passes took, see `seconds_for`.
    """

    layers: dict[str, LayerStatistics]
    fingerprint: str
    fisher: str = "empirical"
    tokens: str = "attended"
    examples: int = 0
    loss: float = float("nan")
    label_tokens: int = 0
    seconds: float = 0.0
    work: dict[Work, float] = field(default_factory=dict)

    @property
    def statistics(self) -> frozenset[Statistic]:
        """The statistics that every layer has."""
        return frozenset[Statistic].intersection(*(frozenset(layer.sums) for layer in self.layers.values()))

    def seconds_for(self, statistics: Iterable[Statistic]) -> float:
        """What these statistics cost (s): the bare pass and their own sums, whatever else shared the pass.

        The bare pass is forward only where no sum of gradients is asked for, and nothing for no statistics.
        """
        wanted = frozenset(statistics)
        return sum(seconds for work, seconds in self.work.items() if work.needed_for(wanted))

    def check(self, model: nn.Module, statistics: frozenset[Statistic] = frozenset()) -> None:
        """Refuses another model, or statistics that were not asked for when calibrating.

        Raises:
            CalibrationError: see above.
        """
        if fingerprint(model) != self.fingerprint:
            raise CalibrationError(
                "this calibration is of another model (or of the same one with other weights): calibrate this model."
            )
        missing = statistics - self.statistics
        if missing:
            raise CalibrationError(
                f"the calibration has no {', '.join(sorted(missing))}: name the method in calibrate(methods=[…])."
            )

    def __add__(self, other: "Calibration") -> "Calibration":
        """The calibration on the data of both, exactly: sums add up. It has the statistics that both have."""
        self._check_same(other)
        kinds = self.statistics & other.statistics
        added: dict[tuple[int, int], Tensor] = {}

        def sum_of(a: Tensor, b: Tensor) -> Tensor:
            key = (id(a), id(b))  # layers that share a tensor go on sharing it
            if key not in added:
                added[key] = a + b.to(a.device)
            return added[key]

        layers = {
            name: LayerStatistics(
                tokens=mine.tokens + other.layers[name].tokens,
                gradient_tokens=mine.tokens_of(Statistic.GRADIENT) + other.layers[name].tokens_of(Statistic.GRADIENT),
                examples=mine.examples + other.layers[name].examples,
                sums={kind: sum_of(mine.sums[kind], other.layers[name].sums[kind]) for kind in sorted(kinds)},
            )
            for name, mine in self.layers.items()
        }
        label_tokens = self.label_tokens + other.label_tokens
        total = sum(part.loss * part.label_tokens for part in (self, other) if part.label_tokens)
        return replace(
            self,
            layers=layers,
            examples=self.examples + other.examples,
            loss=total / label_tokens if label_tokens else float("nan"),
            label_tokens=label_tokens,
            seconds=self.seconds + other.seconds,
            work=add_up(self.work, other.work),
        )

    def merge(self, other: "Calibration") -> "Calibration":
        """The statistics of two calibrations on the same data. The bare pass of this one counts, not that of the other.

        Raises:
            CalibrationError: they saw different models, options or numbers of tokens.
        """
        self._check_same(other)
        layers = {}
        for name, mine in self.layers.items():
            theirs = other.layers[name]
            saw = [(one.tokens, one.tokens_of(Statistic.OUTPUT_MOMENT), one.examples) for one in (mine, theirs)]
            if saw[0] != saw[1]:
                raise CalibrationError(
                    f"two calibrations to be merged saw different data: {mine.tokens} and {theirs.tokens} tokens at {name}."
                )
            layers[name] = replace(mine, sums={**theirs.sums, **mine.sums})
        labelled = self if self.label_tokens else other
        return replace(
            self,
            layers=layers,
            loss=labelled.loss,
            label_tokens=labelled.label_tokens,
            seconds=self.seconds + other.seconds,
            work={**other.work, **self.work},
        )

    def _check_same(self, other: "Calibration") -> None:
        for what in ("fingerprint", "fisher", "tokens"):
            if getattr(self, what) != getattr(other, what):
                label = "model" if what == "fingerprint" else f"`{what}` option"
                raise CalibrationError(f"two calibrations can be put together only with the same {label}.")
        if self.layers.keys() != other.layers.keys():
            raise CalibrationError("two calibrations can be put together only with the same layers (target_modules).")

    def save(self, path: str | Path) -> None:
        """Writes a folder: the sums as safetensors, shared ones once, and `calibration.json`, last and atomically.

        Args:
            path: the folder; created, or replaced so that a reader sees the old or the new calibration, never a mixture.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        names: dict[int, str] = {}
        sums: dict[str, dict[str, str]] = {}
        for name, layer in self.layers.items():
            for kind, tensor in layer.sums.items():
                key = names.setdefault(id(tensor), f"{name}.{kind}")
                tensors[key] = tensor
                sums.setdefault(name, {})[str(kind)] = key
        temporary = folder / f".{uuid.uuid4().hex}.safetensors"
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, temporary)
        digest = sha256_of(temporary)
        file = folder / f"sums-{digest[:16]}.safetensors"
        temporary.replace(file)
        manifest = {
            "format": FORMAT,
            "file": file.name,
            "sha256": digest,
            "fingerprint": self.fingerprint,
            "fisher": self.fisher,
            "tokens": self.tokens,
            "examples": self.examples,
            "loss": self.loss if self.label_tokens else None,
            "label_tokens": self.label_tokens,
            "seconds": self.seconds,
            "work": [
                {"needed_by": sorted(work.needed_by), "spared_by": work.spared_by, "seconds": seconds}
                for work, seconds in self.work.items()
            ],
            "layers": {
                name: {
                    "tokens": layer.tokens,
                    "gradient_tokens": layer.gradient_tokens,
                    "examples": layer.examples,
                    "sums": sums.get(name, {}),
                }
                for name, layer in self.layers.items()
            },
        }
        draft = folder / f".{uuid.uuid4().hex}.json"
        draft.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        draft.replace(folder / MANIFEST)
        for old in folder.glob("sums-*.safetensors"):
            if old.name != file.name:
                old.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Reads what `save` wrote, on the CPU.

        Raises:
            CalibrationError: there is no calibration, or it is damaged (its checksum is verified).
        """
        folder = Path(path)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise CalibrationError(f"{folder} holds a calibration of another version of hubinit: calibrate again.")
            file = folder / Path(manifest["file"]).name
            if sha256_of(file) != manifest["sha256"]:
                raise CalibrationError(f"the calibration in {folder} is damaged ({file.name}): calibrate again.")
            tensors = load_file(file)
            layers = {
                name: LayerStatistics(
                    tokens=entry["tokens"],
                    gradient_tokens=entry["gradient_tokens"],
                    examples=entry["examples"],
                    sums={Statistic(kind): tensors[key] for kind, key in entry["sums"].items()},
                )
                for name, entry in manifest["layers"].items()
            }
            return cls(
                layers=layers,
                fingerprint=manifest["fingerprint"],
                fisher=manifest["fisher"],
                tokens=manifest["tokens"],
                examples=manifest["examples"],
                loss=float("nan") if manifest["loss"] is None else manifest["loss"],
                label_tokens=manifest["label_tokens"],
                seconds=manifest["seconds"],
                work={
                    Work(
                        frozenset(map(Statistic, entry["needed_by"])),
                        entry["spared_by"] and Statistic(entry["spared_by"]),
                    ): entry["seconds"]
                    for entry in manifest["work"]
                },
            )
        except FileNotFoundError:
            raise CalibrationError(f"there is no calibration in {folder}: run calibrate and save it there.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise CalibrationError(f"the calibration in {folder} is damaged ({error}): calibrate again.") from None


def fingerprint(model: nn.Module) -> str:
    """16 hex digits that name a model: its class and type, and the shape and a few weights of every linear layer.

    Weights are compared after rounding to bfloat16, so that a calibration in bfloat16 serves the float32 model of the same
    checkpoint. A PeftModel has the fingerprint of its base.
    """
    inner = base_of(model)
    digest = hashlib.sha256()
    digest.update(type(inner).__name__.encode())
    digest.update(str(getattr(getattr(inner, "config", None), "model_type", "")).encode())
    samples = []
    for name, module in linear_layers(inner).items():
        digest.update(f"{name}{shape_of(module)}".encode())
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and not is_quantised(module) and weight.device.type != "meta":
            flat = weight.detach().reshape(-1)
            samples.append(flat[:: max(1, len(flat) // 16)][:16].to(torch.bfloat16).cpu())
    if samples:
        digest.update(torch.cat(samples).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
