"""The commands that put a program apart from the rest of the machine: bubblewrap's, and the same from `unshare` and `mount`.

Both give namespaces of their own for mounts, processes, network, IPC and host name; a read-only view of the system's libraries
and of this Python's; and one small folder in memory to write to. An ordinary user gets a user namespace for that. Root needs
none, and becomes a user that nobody else is instead, because the kernel does not limit the number of root's processes. Inside,
no further user namespace can be made: it would be a way around the limits.
"""

import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hubinit.errors import HubinitError

Protection = Literal["bubblewrap", "namespaces", "none"]

INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
WORK = "/work"  # in the sandbox, the only place to write to
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
USERS = itertools.count(os.getpid())  # of sandboxes that root has made


def bubblewrap(folder: Path, folder_size: int) -> list[str]:
    """The command that runs `inside.py` in bubblewrap; as root in two steps, as its own user from the second on."""
    command = [
        program("bwrap"),
        *shlex.split("--die-with-parent --unshare-pid --unshare-net --unshare-ipc --unshare-uts"),
    ]
    for path in system():
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        else:  # the folders above a file are its owner's alone unless they are made before
            command += ["--dir", str(path.parent), "--ro-bind", str(path), str(path)]
    command += shlex.split(
        f"--dir /dev --dev-bind /dev/null /dev/null --perms 1777 --size {folder_size} --tmpfs {WORK}"
    )
    alone = shlex.split("--unshare-user --disable-userns")
    if os.geteuid() != 0:
        return [*command, "--remount-ro", "/", *alone, "--", *python()]
    become = shlex.split("--proc /proc --dir /tmp --remount-ro / --cap-add CAP_SETUID --cap-add CAP_SETGID --")
    return [*command, *become, *as_own_user(), program("bwrap"), *alone, *shlex.split("--dev-bind / / --"), *python()]


def namespaces(folder: Path, folder_size: int) -> list[str]:
    """The command that runs `inside.py` in namespaces made by `unshare`; `folder` is where they mount their root.

    The shell stays outside the changed root, as the first process: with it everything in the process namespace ends. A process
    with a changed root cannot make user namespaces.
    """
    root = shlex.quote(str(folder))
    script = [f"PATH={PATH}", "set -e", "umask 022", f"mount -t tmpfs -o mode=755,size=1m hubinit {root}", f"cd {root}"]
    for path in system():
        there, here = shlex.quote(str(path)), shlex.quote(f".{path}")
        script.append(f"mkdir -p {shlex.quote(f'.{path.parent}')}")
        if path.is_symlink():
            script.append(f"ln -s {shlex.quote(str(path.readlink()))} {here}")
        else:
            script.append(f"{'mkdir' if path.is_dir() else 'touch'} {here}")
            script.append(f"mount --rbind {there} {here} && mount -o remount,bind,ro,nosuid,nodev {here}")
    root_user = os.geteuid() == 0
    drop = shlex.split("--no-new-privs --bounding-set=-all --inh-caps=-all")
    script += [
        f"mkdir .{WORK} dev && touch dev/null && mount --bind /dev/null dev/null",
        f"mount -t tmpfs -o mode=1777,nosuid,nodev,size={folder_size} hubinit .{WORK}",
        f"mount -o remount,bind,ro {root}",
        f"chroot . {shlex.join([*(as_own_user() if root_user else [program('setpriv')]), *drop, *python()])} || exit $?",
    ]
    command = [program("setpriv"), "--pdeathsig", "KILL", program("unshare")]
    command += shlex.split("--mount --pid --net --ipc --uts --cgroup --kill-child")
    return [*command, *([] if root_user else ["--map-root-user"]), program("sh"), "-c", "\n".join(script)]


def bare(folder: Path, folder_size: int) -> list[str]:
    """The command that runs `inside.py` with nothing but the limits."""
    return python()


def system() -> list[Path]:
    """What of this machine a program sees, read-only: the system's programs and libraries, and this Python's.

    Of an interpreter in somebody's home that is the executable and the folder of its libraries; no virtual environment.
    """
    interpreter = Path(python()[0])
    wanted = [Path("/usr"), *(Path("/", name) for name in ("bin", "sbin", "lib", "lib32", "lib64"))]
    wanted += [interpreter, *(interpreter.parents[1] / name for name in ("lib", "lib64"))]
    return [path for path in wanted if path.exists() and Path("/usr") not in path.parents]


def python() -> list[str]:
    """The command that runs `inside.py` with this Python, outside its virtual environment and without installed packages."""
    return [str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()), "-I", "-S", "-c", INSIDE]


def as_own_user() -> list[str]:
    """What runs a command of root as a user that runs nothing else on this machine."""
    user = 65_000 + next(USERS) % 500  # reserved by Debian's policy, and inside the 65,536 users of most containers
    return [program("setpriv"), f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def program(name: str) -> str:
    """The path of a system program.

    Raises:
        HubinitError: it is not installed.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        raise HubinitError(f"'{name}' is not installed.")
    return found


COMMANDS: dict[Protection, Callable[[Path, int], list[str]]] = {
    "bubblewrap": bubblewrap,
    "namespaces": namespaces,
    "none": bare,
}
