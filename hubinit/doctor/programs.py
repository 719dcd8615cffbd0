"""What hubinit starts besides Python: the sandbox of code tasks, Java for some scores, Ray and Slurm for sweeps."""

import re
import shutil
import subprocess
from collections.abc import Iterator

from hubinit.doctor.finding import Finding
from hubinit.doctor.libraries import installed_version
from hubinit.errors import first_line
from hubinit.scoring import sandbox

JAVA = 17  # the oldest
METRICS = "METEOR, ROUGE-L and CIDEr of e2e"


def check_sandbox() -> Iterator[Finding]:
    """What keeps code apart that a model wrote."""
    found = sandbox.protection()
    if found == "bubblewrap":
        yield Finding("sandbox", "ok", "bubblewrap")
        return
    why = sandbox.problem("bubblewrap")
    if found == "namespaces":
        yield Finding("sandbox", "ok", f"namespaces, made by unshare (bubblewrap: {why})")
        return
    whys = f"bubblewrap: {why}; unshare: {sandbox.problem('namespaces')}"
    advice = "code tasks need one: install bubblewrap 0.8 or newer, or allow user namespaces; --allow-code goes without"
    yield Finding("sandbox", "warn", whys, advice)


def check_java() -> Iterator[Finding]:
    """Java, and the package that holds the programs for it."""
    program = shutil.which("java")
    if program is None:
        yield Finding("Java", "warn", f"not installed; {METRICS} need it", f"install a Java runtime, {JAVA} or newer")
        return
    try:
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, errors="replace")  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("Java", "warn", f"{program} does not start: {first_line(error)}", "install it again")
        return
    said = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
    number = re.search(r'version "(?:1\.)?(\d+)', said[0])
    if done.returncode or number is None or int(number[1]) < JAVA:
        yield Finding("Java", "warn", said[0], f"{METRICS} need Java {JAVA} or newer")
    elif installed_version("pycocoevalcap") is None:
        found = f"{said[0]}, but not the package pycocoevalcap, which {METRICS} need"
        yield Finding("Java", "warn", found, "pip install 'hubinit[e2e]'")
    else:
        yield Finding("Java", "ok", said[0])


def check_ray() -> Iterator[Finding]:
    """Ray, which only sweeps on several machines need."""
    ray = installed_version("ray")
    yield Finding("Ray", "ok", ray or "not installed; only `--executor ray` needs it: pip install 'hubinit[ray]'")


def check_slurm() -> Iterator[Finding]:
    """Slurm's commands and submitit, which only sweeps on a cluster need."""
    submitit, sbatch = installed_version("submitit"), shutil.which("sbatch")
    if sbatch is None:
        yield Finding("Slurm", "ok", "no `sbatch` here; only `--executor slurm` needs it")
    elif submitit is None:
        yield Finding("Slurm", "warn", f"{sbatch}, but not submitit", "pip install 'hubinit[slurm]'")
    else:
        yield Finding("Slurm", "ok", f"{sbatch}, submitit {submitit}")
