"""Seconds and peak memory of a stage, and the description of the machine and software that a result carries."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from hubinit.records import Cost, Provenance, Stage

GIB = 2**30
PACKAGES = ("hubinit", "torch", "transformers", "peft", "huggingface-hub", "datasets", "accelerate", "lm-eval")


class Stopwatch:
    """Collects the cost of named stages; a stage that runs twice adds up its seconds and keeps the higher peak."""

    def __init__(self) -> None:
        self.costs: dict[Stage, Cost] = {}

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Measures the block as (part of) the stage `name`."""
        reset_peak_memory()
        start = time.perf_counter()
        try:
            yield
        finally:
            before = self.costs.get(name, Cost(seconds=0.0))
            self.costs[name] = Cost(
                seconds=before.seconds + time.perf_counter() - start,
                peak_memory_bytes=max(before.peak_memory_bytes or 0, peak_memory()) or None,
            )

    def charge(self, name: Stage, seconds: float, *, shared: float | None = None) -> None:
        """Sets the seconds of a stage to what they are whoever did the work, so that no run gets it for free.

        Args:
            name: a stage that was measured.
            seconds: what this run alone would need.
            shared: what the work took that it shares with other runs.
        """
        self.costs[name] = self.costs[name].model_copy(update={"seconds": seconds, "shared_seconds": shared})


def device_memory() -> int:
    """Bytes of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)


def device_words() -> str:
    """`this GPU has 80 GiB`."""
    return f"this {'GPU' if torch.cuda.is_available() else 'machine'} has {device_memory() / GIB:.0f} GiB"


def reset_peak_memory() -> None:
    """Starts a new high-water mark: CUDA's where there is a GPU, else this process's resident set (Linux)."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):  # not Linux, or not permitted: the peak then covers the whole process
        Path("/proc/self/clear_refs").write_text("5")  # 5 = reset the peak resident set size


def peak_memory() -> int:
    """Bytes at the high-water mark since the last reset; 0 where it cannot be read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


def provenance(command: str) -> Provenance:
    """Versions, hardware and source state of this process, for `command`."""
    sha, dirty = git_state()
    return Provenance(
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        hardware=hardware(),
        git_sha=sha,
        git_dirty=dirty,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def hardware() -> dict[str, str]:
    """Processor, cores, memory and GPU of this machine."""
    facts = {"cpu": _cpu_name(), "cores": str(os.cpu_count()), "system": f"{platform.system()} {platform.machine()}"}
    facts["memory"] = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = str(torch.version.cuda)
    return facts


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout hubinit runs from and whether it has uncommitted changes; (None, None) when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        sha = _git(root, "rev-parse", "HEAD")
        return sha, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
