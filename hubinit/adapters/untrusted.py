"""Reading the files of an adapter that others wrote: its configuration and the header of its tensors, within limits.

Nothing is built here. Whatever is wrong with a file ends in one sentence; `hubinit.adapters.fitting` then holds the two against
the base.
"""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from hubinit.errors import HubinitError, first_line
from hubinit.text import one_line

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX, A_END, B_END = "base_model.model.", ".lora_A.weight", ".lora_B.weight"  # around a module's name in the weights
JSON_BYTES = 4 * 2**20  # a thousand modules with a rank and an alpha each take 0.2 MB
HEADER_BYTES = 16 * 2**20  # a thousand modules take 0.2 MB here too
FLOATS = {"F64", "F32", "F16", "BF16"}
# PEFT loads further models or adapters for these, from wherever the configuration says.
FETCHING = {"XLORA", "SHADOW"}
# Initial factors that are all replaced by the stored ones; every other name stands for a rewritten base.
HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")

Names = str | list[str] | None
Count = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(ge=-1e9, le=1e9)]


class StoredConfig(BaseModel):
    """The fields of an `adapter_config.json` that are used before PEFT has looked at them; PEFT checks the others."""

    model_config = ConfigDict(strict=True, extra="allow")

    peft_type: str
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    auto_mapping: dict[str, Any] | None = None
    inference_mode: bool = False
    target_modules: Names = None
    exclude_modules: Names = None
    feedforward_modules: Names = None
    layers_pattern: Names = None
    layers_to_transform: int | list[int] | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, Any] | None = None


class StoredLora(StoredConfig):
    """The same of a LoRA. What PEFT can do besides that hubinit neither writes nor undoes must be off."""

    r: Count = 8
    lora_alpha: Alpha = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str = True
    rank_pattern: dict[str, Count] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    layer_replication: None = None
    trainable_token_indices: None = None
    megatron_config: None = None
    arrow_config: None = None
    alora_invocation_tokens: None = None
    use_qalora: Literal[False] = False


@dataclass(frozen=True)
class Stored:
    """Shape and dtype (as safetensors names it) of one tensor in a file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object: of sane size, without repeated keys, without NaN or infinity.

    Raises:
        HubinitError: it is not one.
    """
    try:
        if path.stat().st_size > JSON_BYTES:
            raise ValueError(f"it has more than {JSON_BYTES // 2**20} MiB")
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise HubinitError(f"{path} cannot be read: {one_line(first_line(error))}.") from error
    return content


def read_config(directory: Path) -> PeftConfig:
    """Reads the `adapter_config.json` in a folder.

    Raises:
        HubinitError: it is not a PEFT configuration, or asks for something that hubinit does not load.
    """
    return parse_config(directory / CONFIG)


def parse_config(path: Path) -> PeftConfig:
    """The same for the file itself, wherever it lies.

    Raises:
        HubinitError: as for `read_config`.
    """
    content = read_json(path)
    if content.get("peft_type") is None:
        raise HubinitError(f"{path} names no peft_type: it is not an adapter's configuration.")
    try:
        checked = (StoredLora if content["peft_type"] == "LORA" else StoredConfig).model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        _refuse(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", error)
    if checked.peft_type not in PEFT_TYPE_TO_CONFIG_MAPPING or checked.peft_type in FETCHING:
        _refuse(path, f"peft_type: hubinit loads no {checked.peft_type}")
    try:
        config = PeftConfig.from_peft_type(**{key: value for key, value in content.items() if key != "runtime_config"})
    except Exception as error:  # whatever PEFT makes of values that it does not expect
        _refuse(path, first_line(error), error)
    if hasattr(config, "prompt_tuning_init"):
        config.prompt_tuning_init = "RANDOM"  # the file holds the prompt; PEFT would fetch a tokenizer or another file
    return config


def read_header(path: Path) -> dict[str, Stored]:
    """Reads what tensors a safetensors file holds, without reading them.

    Raises:
        HubinitError: it is missing or damaged, or holds none.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if len(start) == 8 and struct.unpack("<Q", start)[0] > HEADER_BYTES:
            raise ValueError(f"its header has more than {HEADER_BYTES // 2**20} MiB")
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            header = {name: Stored(tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise HubinitError(f"{path} cannot be read: {one_line(first_line(error))}.") from error
    if not header:
        raise HubinitError(f"{path} cannot be read: it holds no tensors.")
    return header


def check_finite(path: Path) -> None:
    """Reads all tensors once.

    Raises:
        HubinitError: one holds NaN or infinity.
    """
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise HubinitError(f"{path} is damaged: {one_line(name)} holds NaN or infinity; get the adapter again.")


def check_files(directory: Path) -> None:
    """Checks that the files of an adapter are all there, and are in its folder (or in the Hub's cache beside it).

    Raises:
        HubinitError: one is missing, or a link that leads elsewhere.
    """
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise HubinitError(f"{directory} is not a whole adapter: {name} is missing.")
        file, inside = (directory / name).resolve(), directory.resolve()
        blobs = next((parent.parent / "blobs" for parent in inside.parents if parent.name == "snapshots"), inside)
        if not (file.is_relative_to(inside) or file.is_relative_to(blobs)):
            raise HubinitError(f"{directory / name} is a link that leads out of its folder: put the file itself there.")


def _refuse(path: Path, reason: str, error: Exception | None = None) -> NoReturn:
    raise HubinitError(
        f"{path} cannot be used ({one_line(reason)[:300]}): it is damaged, or asks for what hubinit does not load."
    ) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("it has the same key twice")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not JSON")
