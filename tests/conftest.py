"""The whole suite talks to one embedded Hub per pytest(-xdist) process, and to nothing outside loopback.

huggingface_hub and datasets read their environment when they are imported, so the port is bound and the environment set here,
before anything else can import them. Nothing heavy is imported: a test that needs torch pays for it, the others do not.
"""

import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hubinit.paths import home

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hubinit.devhub.faults import FaultPlan
    from hubinit.devhub.seed.wheels import Wheel
    from hubinit.devhub.server import Running

assert "huggingface_hub" not in sys.modules, "huggingface_hub was imported before the tests could point it at their Hub"

USERS = {"alice": "hf_alice", "bob": "hf_bob"}
HOME = Path(tempfile.mkdtemp(prefix="hubinit-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
LISTENER = socket.socket()
LISTENER.bind(("127.0.0.1", 0))

CACHE = home()  # of wheels: the developer's own, whatever a test does to HUBINIT_HOME
DEVELOPERS_OWN = dict(os.environ)

for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_"))]:
    del os.environ[name]  # the developer's own token, caches and switches stay out of the tests
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{LISTENER.getsockname()[1]}",
    "HF_HOME": str(HOME / "hf"),
    "HF_TOKEN": USERS["alice"],
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HUBINIT_ALLOW_DRIFT": "1",  # tiny data lie under real names on the embedded Hub
    "OMP_NUM_THREADS": "1",  # is torch.set_num_threads(1) for this process and every child, without importing torch
    "MKL_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "2000",
}


class OutsideNetworkError(OSError):
    """A test tried to reach something other than this machine."""


def is_local(address: Any) -> bool:
    """Whether a socket address (or a host name) is a loopback one, or not an internet address at all."""
    host = address[0] if isinstance(address, tuple) else address
    if not isinstance(host, str):  # bytes of a Unix socket, None for "any local address"
        return host is None or host in (b"localhost", b"127.0.0.1")
    return host in ("", "localhost", "::1", "0.0.0.0") or host.startswith(("127.", "/"))


def raise_fence() -> None:
    """Replace connecting and name resolution by versions that refuse anything outside loopback."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(address: Any) -> None:
        if not is_local(address):
            raise OutsideNetworkError(f"tests must not leave loopback, but something asked for {address!r}")

    def fenced_connect(self: socket.socket, address: Any) -> None:
        check(address)
        connect(self, address)

    def fenced_connect_ex(self: socket.socket, address: Any) -> int:
        check(address)
        return connect_ex(self, address)

    def fenced_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host)
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = fenced_connect  # type: ignore[method-assign]
    socket.socket.connect_ex = fenced_connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = fenced_getaddrinfo


raise_fence()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests: a worker takes whole files, and a long one at the end would run alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(autouse=True)
def no_dataset_viewer() -> None:
    """Keep `datasets` from asking the dataset viewer, which has no switch in the environment."""
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.USE_PARQUET_EXPORT = False


@pytest.fixture(scope="session")
def hub() -> "Iterator[Running]":
    """The running embedded Hub that `HF_ENDPOINT` names, with users alice and bob; `HF_TOKEN` is alice's."""
    from hubinit.devhub.faults import Faults
    from hubinit.devhub.server import running

    with running(HOME / "hub", users=USERS, listener=LISTENER, wrap=Faults) as server:
        yield server


@pytest.fixture
def faults(hub: "Running") -> "Iterator[Callable[[FaultPlan | None], FaultPlan | None]]":
    """Call it with a plan, and the Hub fails by this plan until the test ends (or until it is called with None)."""

    def use(plan: "FaultPlan | None") -> "FaultPlan | None":
        hub.served.plan = plan
        return plan

    yield use
    use(None)


@pytest.fixture
def api(hub: "Running") -> "HfApi":
    """The real client, as alice."""
    from huggingface_hub import HfApi

    return HfApi(token=USERS["alice"])


@pytest.fixture
def live_environment() -> dict[str, str]:
    """The environment for a child process that talks to the real Hub; opt-in by `HUBINIT_LIVE=1` and an `HF_TOKEN`."""
    if DEVELOPERS_OWN.get("HUBINIT_LIVE") != "1" or "HF_TOKEN" not in DEVELOPERS_OWN:
        pytest.skip("talks to the real Hub: set HUBINIT_LIVE=1 and HF_TOKEN")
    return DEVELOPERS_OWN


@cache
def fetched(wheel: "Wheel") -> Path | str:
    """A real wheel in the cache of `hubinit hub seed`, or why it cannot be had; asked once per process, for pip tries long."""
    from hubinit.devhub.seed.wheels import FetchError, fetch

    try:
        return fetch(wheel, CACHE, print)
    except FetchError as error:
        return f"needs {wheel.requirement}: {error}"


@pytest.fixture
def real_wheel(request: pytest.FixtureRequest) -> "Callable[[Wheel], Path]":
    """Gives a pinned wheel, fetched when it is not in the cache; where the index cannot be reached, the test is skipped."""
    assert request.node.get_closest_marker("index"), "a test that needs a real wheel says so: @pytest.mark.index"

    def get(wheel: "Wheel") -> Path:
        found = fetched(wheel)
        return found if isinstance(found, Path) else pytest.skip(found)

    return get
