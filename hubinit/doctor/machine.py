"""What the machine has: torch and its CUDA, devices and their free memory, room on the disks."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants

from hubinit.doctor.finding import Finding
from hubinit.models.dtype import bfloat16_is_fast
from hubinit.paths import home
from hubinit.runs.costs import GIB
from hubinit.runs.disk import existing

SMALL_MEMORY = 4 * GIB  # below it a model of a billion parameters does not fit in 4 bytes each
SMALL_DISK = 10 * GIB  # one model of a few billion parameters
NO_DISK = GIB
DRIVER = Path("/proc/driver/nvidia/version")


def check_torch() -> Iterator[Finding]:
    """The build of torch, and whether it can use the GPU that is there."""
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the processor only"
    found = f"{torch.__version__}, built {built}"
    if torch.cuda.is_available() or not DRIVER.exists():
        yield Finding("torch", "ok", found)
        return
    why = "it sees no GPU, though NVIDIA's driver is here"
    advice = (
        "look at CUDA_VISIBLE_DEVICES, and whether the driver (`nvidia-smi`) is new enough for this build"
        if torch.version.cuda
        else "install the build with CUDA, see https://pytorch.org/get-started/locally"
    )
    yield Finding("torch", "warn", f"{found}; {why}", advice)


def check_devices() -> Iterator[Finding]:
    """Each GPU, then the processor and the memory of the machine."""
    for number in range(torch.cuda.device_count()):
        yield gpu(number)
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fast = "fast" if bfloat16_is_fast() else "slow: models are loaded in float32"
    found = f"{cores} cores, bfloat16 is {fast}; {of(memory.available, memory.total)} of memory free"
    if memory.available < SMALL_MEMORY:
        yield Finding("processor", "warn", found, "end other programs, or use small models")
    else:
        yield Finding("processor", "ok", found)


def gpu(number: int) -> Finding:
    """One GPU; the name is torch's."""
    free, total = torch.cuda.mem_get_info(number)
    with torch.cuda.device(number):
        emulated = "" if torch.cuda.is_bf16_supported(including_emulation=False) else ", no bfloat16: float32 is used"
    found = f"{torch.cuda.get_device_name(number)}: {of(free, total)} free{emulated}"
    if 2 * free < total:
        return Finding(f"GPU {number}", "warn", found, "somebody else uses it; see `nvidia-smi`")
    return Finding(f"GPU {number}", "ok", found)


def check_disk(out: Path) -> Iterator[Finding]:
    """Room where hubinit writes."""
    cache = Path(constants.HF_HUB_CACHE)
    places = {"results": (out, "--out"), "Hub cache": (cache, "HF_HOME"), "hubinit's home": (home(), "HUBINIT_HOME")}
    for name, (folder, setting) in places.items():
        yield room(name, folder, setting)


def room(name: str, folder: Path, setting: str) -> Finding:
    """The room in one folder, which `setting` moves elsewhere."""
    there = existing(folder)
    free = shutil.disk_usage(there).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, "fail", f"{folder} cannot be written", f"choose another folder with {setting}")
    if free < SMALL_DISK:
        return Finding(
            name, "fail" if free < NO_DISK else "warn", found, f"make room, or choose another disk with {setting}"
        )
    return Finding(name, "ok", found)


def of(part: float, whole: float) -> str:
    """`12.3 of 80.0 GiB`."""
    return f"{part / GIB:.1f} of {whole / GIB:.1f} GiB"
