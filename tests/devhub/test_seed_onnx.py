"""A DINOv2 encoder written as ONNX, the way exporters do it, comes back as the same model."""

from pathlib import Path

import numpy as np
import pytest

from hubinit.devhub.seed.onnx_model import convert_dinov2
from hubinit.errors import HubinitError


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol-buffers message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, values: np.ndarray, kind: int = 1) -> bytes:
    """A GraphProto.initializer."""
    dims = b"".join(field(1, size) for size in values.shape)
    return field(5, dims + field(2, kind) + field(8, name.encode()) + field(9, values.tobytes()))


def node(name: str, *inputs: str) -> bytes:
    """A GraphProto.node."""
    return field(1, b"".join(field(1, each.encode()) for each in inputs) + field(3, name.encode()) + field(4, b"Op"))


@pytest.fixture
def model():
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4, mlp_ratio=2
    )
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def export(model, tmp_path: Path) -> Path:
    """An ONNX file with anonymous transposed matrices, the position table in two parts, and things that are not the encoder's."""
    from safetensors.numpy import load_file

    model.save_pretrained(tmp_path / "original")
    graph = tensor("decoder.final.weight", np.zeros((2, 2), "f4")) + tensor("onnx::Shape_1", np.zeros(2, "i8"), kind=7)
    for number, (name, value) in enumerate(load_file(tmp_path / "original" / "model.safetensors").items()):
        path = "/backbone/" + name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
        if name == "embeddings.position_embeddings":
            graph += tensor("onnx::Concat_7", value[:, :1]) + node(
                "/backbone/embeddings/Concat_1", "onnx::Concat_7", "x"
            )
            graph += tensor("onnx::Reshape_8", value[:, 1:]) + node("/backbone/embeddings/Reshape", "onnx::Reshape_8")
        elif value.ndim == 2 and name.endswith(".weight"):
            anonymous = f"onnx::MatMul_{number + 100}"
            graph += tensor(anonymous, np.ascontiguousarray(value.T)) + node(f"{path}/MatMul", "x", anonymous)
        elif name != "embeddings.mask_token":
            graph += tensor(f"backbone.{name}", value)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(field(1, 8) + field(2, b"exporter") + field(7, graph))
    return path


def test_the_encoder_comes_back(model, tmp_path):
    import torch
    from transformers import AutoImageProcessor, Dinov2Model

    convert_dinov2(export(model, tmp_path), tmp_path / "converted", heads=2)
    found, report = Dinov2Model.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(found(images).last_hidden_state, model(images).last_hidden_state)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "converted")
    assert processor(np.zeros((30, 20, 3), "u1"), return_tensors="pt")["pixel_values"].shape == (1, 3, 224, 224)


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, field(7, tensor("other.weight", np.zeros(3, "f4")))])
def test_another_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(HubinitError, match=r"other.onnx does not hold a readable DINOv2 encoder"):
        convert_dinov2(path, tmp_path / "out", heads=2)
