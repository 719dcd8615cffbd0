"""Pixels without torchvision: what transformers' processors give is what the models' own preprocessing gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hubinit.data.encode import ImageExample, collate_images
from hubinit.models import base, names
from tests import cases

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
# As the repos of google/vit-base-patch32-224-in21k, facebook/dinov2-small and openai/clip-vit-base-patch32 have them.
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 224, "width": 224},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": HALF[0], "image_std": HALF[1],
    },
    "dinov2": {
        "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "do_convert_rgb": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": IMAGENET[0], "image_std": IMAGENET[1],
    },
    "clip": {
        "feature_extractor_type": "CLIPFeatureExtractor", "do_resize": True, "size": 224, "resample": 3,
        "do_center_crop": True, "crop_size": 224, "do_normalize": True, "image_mean": CLIP[0], "image_std": CLIP[1],
    },
}  # fmt: skip


def own_preprocessing(image: Image.Image, name: str) -> np.ndarray:
    """The steps of the papers' code with Pillow and NumPy: resize, crop the middle, scale to 0–1, normalise."""
    image = image.convert("RGB")
    if name == "vit":
        mean, std = HALF
        image = image.resize((224, 224), Image.Resampling.BILINEAR)
    else:
        mean, std = IMAGENET if name == "dinov2" else CLIP
        edge = 256 if name == "dinov2" else 224
        short = min(image.size)
        image = image.resize(tuple(int(edge * side / short) for side in image.size), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        image = image.crop((left, top, left + 224, top + 224))
    values = (np.asarray(image, dtype=np.float64) / 255 - mean) / std  # (224, 224, 3)
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_are_those_of_the_models_own_preprocessing(name: str, mode: str, tmp_path: Path) -> None:
    cases.build(name).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CONFIGS[name]))
    loaded = base.load(names.resolve(str(tmp_path)), "cpu", labels=["a", "b"])
    assert type(loaded.processor).__name__.endswith("Pil"), "whether torchvision is installed or not"
    noise = Image.merge("RGB", [Image.effect_noise((300, 260), 90) for _ in range(3)])
    image = noise.resize((64, 48)).convert(mode)
    pixels = collate_images([ImageExample(image, 0)], loaded.processor)["pixel_values"]
    assert (pixels.shape, pixels.dtype) == ((1, 3, 224, 224), torch.float32)
    np.testing.assert_allclose(pixels[0].numpy(), own_preprocessing(image, name), atol=1e-5)
