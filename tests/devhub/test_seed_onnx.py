"""A DINOv2 encoder written as ONNX, the way exporters do it, comes back as the same model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node
from onnx.numpy_helper import from_array
from safetensors.numpy import load_file

from hubinit.devhub.seed.onnx_model import convert_dinov2
from hubinit.errors import HubinitError


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
    model.save_pretrained(tmp_path / "original")
    tensors = {"decoder.final.weight": np.zeros((2, 2), "f4"), "onnx::Shape_1": np.zeros(2, "i8")}
    nodes = []

    def add(name: str, values: np.ndarray, user: str) -> None:
        """A tensor without a name of its own, known by the node that uses it."""
        tensors[name] = values
        nodes.append(make_node(user.rpartition("/")[2], ["x", name], ["y"], name=user))

    for number, (name, value) in enumerate(load_file(tmp_path / "original" / "model.safetensors").items()):
        path = "/backbone/" + name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
        if name == "embeddings.position_embeddings":
            add("onnx::Concat_7", value[:, :1], "/backbone/embeddings/Concat_1")
            add("onnx::Reshape_8", value[:, 1:], "/backbone/embeddings/Reshape")
        elif value.ndim == 2 and name.endswith(".weight"):
            add(f"onnx::MatMul_{number + 100}", np.ascontiguousarray(value.T), f"{path}/MatMul")
        elif name != "embeddings.mask_token":
            tensors[f"backbone.{name}"] = value
    return write(tmp_path / "encoder.onnx", nodes, tensors)


def write(path: Path, nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> Path:
    """An ONNX file with these nodes and tensors."""
    initializers = [from_array(values, name) for name, values in tensors.items()]
    onnx.save(make_model(make_graph(nodes, "encoder", [], [], initializers)), path)
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


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, None])
def test_another_file_is_one_sentence(tmp_path, content):
    path = write(tmp_path / "other.onnx", [], {"other.weight": np.zeros(3, "f4")})
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HubinitError, match=r"other.onnx does not hold a readable DINOv2 encoder"):
        convert_dinov2(path, tmp_path / "out", heads=2)
