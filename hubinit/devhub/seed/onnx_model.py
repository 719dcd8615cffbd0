"""Take the DINOv2 encoder out of an ONNX file and write it as a transformers checkpoint.

An ONNX file is one protocol-buffers message; the few fields that are needed here are read directly, so that seeding needs
neither `onnx` nor `onnxruntime`. Field numbers are those of `onnx.proto3`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hubinit.errors import HubinitError

_PREFIX = "backbone."
_FLOAT = 1
# ModelProto.graph; GraphProto.node, .initializer; NodeProto.input, .name; TensorProto.dims, .data_type, .name, .raw_data
_GRAPH, _NODE, _INITIALIZER, _INPUT, _NODE_NAME, _DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 7, 1, 5, 1, 3, 1, 2, 8, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PREPROCESSING = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],  # ImageNet
    "image_std": [0.229, 0.224, 0.225],
}


def convert_dinov2(source: Path, target: Path, *, heads: int) -> None:
    """Write config, weights and image processor of the DINOv2 encoder in an ONNX file into a folder.

    The mask token, which only pre-training uses, is not in the file and is written as zeros.

    Args:
        source: The `.onnx` file, whose encoder tensors are named `backbone.…`.
        target: A folder; created when missing.
        heads: Attention heads; ONNX does not name them.

    Raises:
        HubinitError: The file is not readable or does not hold such an encoder.
    """
    from safetensors.torch import save_file
    from transformers import Dinov2Config

    try:
        weights = encoder_weights(source)
        patches = weights["embeddings.patch_embeddings.projection.weight"]  # (hidden, 3, patch, patch)
        positions = weights["embeddings.position_embeddings"].shape[1] - 1  # without the class token
        layers = sum(name.endswith(".norm1.weight") for name in weights)
        mlp, hidden = weights["encoder.layer.0.mlp.fc1.weight"].shape
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise HubinitError(f"{source.name} does not hold a readable DINOv2 encoder.") from error
    weights["embeddings.mask_token"] = torch.zeros(1, hidden)
    patch = patches.shape[-1]
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    Dinov2Config(
        architectures=["Dinov2Model"],
        dtype="float32",
        hidden_size=hidden,
        image_size=round(positions**0.5) * patch,
        mlp_ratio=mlp // hidden,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        patch_size=patch,
    ).save_pretrained(target)
    # As plain JSON: the class that it names needs torchvision, and falls back with a warning where that is missing.
    (target / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSING, indent=2) + "\n")


def encoder_weights(source: Path) -> dict[str, torch.Tensor]:
    """The encoder's tensors by their transformers names, without the prefix.

    Most keep their names in the file. Matrices do not: exported transposed and anonymous, they are named after the node that
    multiplies by them (`/backbone/encoder/layer.0/mlp/fc1/MatMul`). The position table is cut in two anonymous parts.
    """
    graph = next(value for number, value in _fields(memoryview(source.read_bytes())) if number == _GRAPH)
    tensors: dict[str, torch.Tensor] = {}
    users: dict[str, str] = {}
    for number, message in _fields(graph):
        if number == _INITIALIZER:
            tensors.update(_tensor(message))
        elif number == _NODE:
            parts = list(_fields(message))
            node = next((str(value, "utf-8") for field, value in parts if field == _NODE_NAME), "")
            users.update({str(value, "utf-8"): node for field, value in parts if field == _INPUT})
    weights = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    positions = {}
    for name, value in tensors.items():
        user = users.get(name, "").strip("/").replace("/", ".")
        if not user.startswith(_PREFIX) or name.startswith(_PREFIX):
            continue
        if user.endswith(".MatMul"):
            weights[user.removeprefix(_PREFIX).replace(".MatMul", ".weight")] = value.T.contiguous()  # (out, in)
        elif value.dim() == 3:
            positions[value.shape[1]] = value  # (1, 1, hidden) for the class token, (1, patches, hidden)
    weights["embeddings.position_embeddings"] = torch.cat([positions.pop(1), *positions.values()], dim=1)
    return weights


def _tensor(message: memoryview) -> dict[str, torch.Tensor]:
    """A float32 tensor by its name; nothing for one of another type."""
    shape: list[int] = []
    name, kind, data = "", 0, memoryview(b"")
    for number, value in _fields(message):
        if number == _DIMS:
            shape.append(value)
        elif number == _DATA_TYPE:
            kind = value
        elif number == _TENSOR_NAME:
            name = str(value, "utf-8")
        elif number == _RAW_DATA:
            data = value
    if kind != _FLOAT:
        return {}
    return {name: torch.from_numpy(np.frombuffer(data, dtype="<f4").reshape(shape).copy())}


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol-buffers message: number, and an int or the bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire}")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A variable-length integer, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
