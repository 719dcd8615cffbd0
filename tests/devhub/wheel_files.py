"""Small wheels for the tests of seeding."""

import hashlib
import zipfile
from pathlib import Path

from hubinit.devhub.seed.wheels import Wheel


def build_wheel(folder: Path, files: dict[str, bytes], package: str = "tiny-seed", version: str = "1.0") -> Wheel:
    """A wheel file that pip accepts, and its pin."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{package.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Wheel(package, version, path.name, digest, len(content), date="2024-01-02T03:04:00.000Z")
