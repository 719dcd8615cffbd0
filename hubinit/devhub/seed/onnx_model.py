"""Take the DINOv2 encoder out of an ONNX file and write it as a transformers checkpoint."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hubinit.errors import HubinitError

if TYPE_CHECKING:
    import torch

_PREFIX = "backbone."
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
    import torch
    from google.protobuf.message import DecodeError
    from safetensors.torch import save_file
    from transformers import Dinov2Config

    try:
        weights = encoder_weights(source)
        patches = weights["embeddings.patch_embeddings.projection.weight"]  # (hidden, 3, patch, patch)
        positions = weights["embeddings.position_embeddings"].shape[1] - 1  # without the class token
        layers = sum(name.endswith(".norm1.weight") for name in weights)
        mlp, hidden = weights["encoder.layer.0.mlp.fc1.weight"].shape
    except (DecodeError, KeyError, IndexError, ValueError) as error:
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


def encoder_weights(source: Path) -> "dict[str, torch.Tensor]":
    """The encoder's tensors by their transformers names, without the prefix.

    Most keep their names in the file. Matrices do not: exported transposed and anonymous, they are named after the node that
    multiplies by them (`/backbone/encoder/layer.0/mlp/fc1/MatMul`). The position table is cut in two anonymous parts.
    """
    import onnx
    import torch
    from onnx.numpy_helper import to_array

    graph = onnx.load(source, load_external_data=False).graph
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    tensors = {tensor.name: torch.tensor(to_array(tensor)) for tensor in floats}
    users = {name: node.name for node in graph.node for name in node.input}
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
