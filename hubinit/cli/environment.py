"""Which Hub a command talks to. Set in the environment *before* any Hub library is imported: they read it at import.

This module must therefore import none of them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from hubinit.errors import HubinitError, Interrupted
from hubinit.paths import home

HUB_LIBRARIES = ("huggingface_hub", "datasets", "transformers")

# What the extra `hub` installs, as modules.
SERVING = ("anyio", "h11", "markdown_it", "nh3", "pathspec", "re2", "starlette", "uvicorn")
SEEDING = (*SERVING, "gguf", "google.protobuf", "onnx", "tokenizers")


def require_modules(names: tuple[str, ...]) -> None:
    """Says how to install the embedded Hub, before any work, when a part of it is not there.

    Args:
        names: `SERVING` or `SEEDING`.

    Raises:
        HubinitError: one of them is not installed.
    """
    if missing := [name for name in names if not is_installed(name)]:
        raise HubinitError(f'The embedded Hub needs {", ".join(missing)}: pip install "hubinit[hub]"')


def is_installed(module: str) -> bool:
    """Whether a module can be found; only the packages around it are imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


@contextmanager
def connect(hub: str | None, judge_url: str | None = None) -> Iterator[str]:
    """Points every Hub library of this process and its children at a Hub from here on.

    Args:
        hub: None: `HF_ENDPOINT`, or huggingface.co when unset. `embedded`: start the embedded Hub under `home()` on a free
            port. `offline`: only what is in the local cache. Anything else: the URL of a Hub.
        judge_url: address of the judge, for this process and its workers. None: `HUBINIT_JUDGE_URL`, if that is set.

    Yields:
        The endpoint's URL.

    Raises:
        HubinitError: the value is none of these.
        Interrupted: the user pressed Ctrl-C inside the block.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # commands show their own
    if judge_url is not None:
        os.environ["HUBINIT_JUDGE_URL"] = judge_url
    try:
        if hub is None:
            yield os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        elif hub == "embedded":
            require_modules(SERVING)
            from hubinit.devhub.server import running

            with running(home() / "hub") as server:
                point_at(server.url)
                os.environ["HF_TOKEN"] = server.token
                yield server.url
        elif hub == "offline":
            os.environ["HF_HUB_OFFLINE"] = "1"
            yield "offline"
        elif hub.startswith(("http://", "https://")):
            point_at(hub)
            yield hub
        else:
            raise HubinitError(
                f"--hub wants 'embedded', 'offline' or a URL such as http://127.0.0.1:8321, not '{hub}'."
            )
    except KeyboardInterrupt:
        raise Interrupted(
            "Interrupted; what is finished is kept, and the same command goes on where this one stopped."
        ) from None


def point_at(url: str) -> None:
    """Sets the environment for the Hub at `url`; loopback ones get a download cache of their own and no Xet.

    Raises:
        HubinitError: a Hub library is already imported with another endpoint.
    """
    loaded = [name for name in HUB_LIBRARIES if name in sys.modules]
    if loaded and os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/") != url.rstrip("/"):
        raise HubinitError(
            f"The Hub can't be changed to {url} after {loaded[0]} was imported; set HF_ENDPOINT instead."
        )
    os.environ["HF_ENDPOINT"] = url.rstrip("/")
    if "://127.0.0.1" in url or "://localhost" in url:
        # The embedded Hub speaks plain LFS only, and its repos may share names with huggingface.co's.
        os.environ["HF_HUB_DISABLE_XET"] = "1"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
        os.environ.setdefault("HF_HOME", str(home() / "hf"))
