"""Python and the libraries, against what hubinit declares (`pyproject.toml`) and what it is tested with (`constraints.txt`)."""

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from hubinit.doctor.finding import Finding, State

CONSTRAINTS = "constraints.txt"  # in a checkout; in a wheel beside its metadata


def check_python() -> Iterator[Finding]:
    """The version of Python."""
    here, wanted = platform.python_version(), metadata("hubinit")["Requires-Python"]
    if SpecifierSet(wanted).contains(here, prereleases=True):
        yield Finding("Python", "ok", here)
    else:
        yield Finding(
            "Python", "fail", f"{here}; hubinit needs {wanted}", "make a virtual environment with a newer Python"
        )


def check_libraries() -> Iterator[Finding]:
    """The versions of the libraries: a line for each that is not as it should be, and one for the others."""
    tested = tested_versions()
    required = [Requirement(line) for line in requires("hubinit") or ()]
    findings: list[Finding] = []
    looked_at = set[str]()
    for one in required:
        needed = one.marker is None or one.marker.evaluate({"extra": ""})
        installed = installed_version(one.name)
        if one.name not in {*looked_at, "hubinit"} and (needed or installed is not None):
            looked_at.add(one.name)
            findings += [finding] if (finding := judge(one, installed, needed, tested)) is not None else []
    yield from findings
    against = "" if tested else "; what it is tested with is not known here"
    yield Finding("libraries", "ok", f"{len(looked_at) - len(findings)} as they should be{against}")


def judge(wanted: Requirement, installed: str | None, needed: bool, tested: Mapping[str, str]) -> Finding | None:
    """What is wrong with one library.

    Args:
        wanted: by `pyproject.toml`.
        installed: version.
        needed: by hubinit itself, not by an extra of it.
        tested: versions by name.
    """
    bounds = f"{wanted.name}{wanted.specifier}"
    worst: State = "fail" if needed else "warn"
    if installed is None:
        return Finding(wanted.name, "fail", "not installed", f"pip install '{bounds}'")
    if not wanted.specifier.contains(installed, prereleases=True):
        return Finding(wanted.name, worst, f"{installed}; hubinit needs {wanted.specifier}", f"pip install '{bounds}'")
    known = tested.get(canonicalize_name(wanted.name))
    if known is not None and Version(installed).release[:2] > Version(known).release[:2]:
        found = f"{installed} is newer than {known}, which hubinit is tested with"
        return Finding(wanted.name, "warn", found, f"if something breaks: pip install '{wanted.name}=={known}'")
    return None


def installed_version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tested_versions() -> dict[str, str]:
    """The versions that hubinit is tested with, by canonical name; none where nobody says."""
    file = Path(__file__).resolve().parents[2] / CONSTRAINTS
    text = file.read_text(encoding="utf-8") if file.is_file() else None
    if text is None:
        text = distribution("hubinit").read_text(f"extra_metadata/{CONSTRAINTS}")
    pins = (line.partition("#")[0].strip().partition("==") for line in (text or "").splitlines())
    return {canonicalize_name(name): pinned for name, separator, pinned in pins if separator}
