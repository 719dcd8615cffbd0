"""Running the embedded Hub: for a person at a terminal, or inside a `with` block. Loopback only."""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from hubinit.errors import HubError

from .app import App
from .calls import Settings
from .connections import Connection
from .root import sweep
from .store import Store
from .users import sign_up, token_file

HOST = "127.0.0.1"
DEFAULT_PORT = 8321


@dataclass(frozen=True)
class Running:
    """A server that runs in this process.

    Attributes:
        url: its address, for `HF_ENDPOINT`.
        users: name to token.
        store: its state, for reading and writing without HTTP.
        app: the application.
        served: the application with the middleware around it.
    """

    url: str
    users: dict[str, str]
    store: Store
    app: App
    served: ASGIApp

    @property
    def user(self) -> str:
        """The first user's name."""
        return next(iter(self.users))

    @property
    def token(self) -> str:
        """The first user's token."""
        return self.users[self.user]

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment needs before huggingface_hub is imported."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HUB_DISABLE_XET": "1"}


def bind(port: int) -> socket.socket:
    """A socket on a loopback port; 0 takes a free one.

    Raises:
        HubError: the port is in use or not allowed.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or "the port must be between 0 and 65535"
        raise HubError(f"The embedded Hub cannot use port {port} ({reason}); choose another with --port.") from None
    return listener


def make_app(root: Path, users: Mapping[str, str | None] | None, settings: Settings | None = None) -> App:
    """The application over a root folder, which is created when missing.

    Raises:
        HubError: the folder cannot be used, or the users are not valid.
    """
    try:
        store = Store(Path(root))
        limits = settings or Settings()
        sweep(store.root, store.mark, upload_seconds=limits.upload_seconds)
        with store.locked():
            return App(store, sign_up(store.root, users), limits)
    except OSError as error:
        raise HubError(f"The embedded Hub cannot use the folder {root}: {error.strerror}.") from error


def _server(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=cast("Any", partial(Connection, settings)),  # uvicorn only calls it
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


@contextmanager
def running(
    root: Path,
    *,
    port: int = 0,
    users: Mapping[str, str | None] | None = None,
    settings: Settings | None = None,
    listener: socket.socket | None = None,
    wrap: Callable[[App], ASGIApp] = lambda app: app,
) -> Iterator[Running]:
    """Run the server in a background thread for as long as the block lasts.

    Args:
        root: its folder.
        port: 0 for a free one.
        users: name to token, None for a token made here; one user `local` when not given.
        settings: limits, for tests.
        listener: a socket that is bound already, in place of `port`.
        wrap: puts middleware around the application, such as `faults.Faults`.

    Raises:
        HubError: the port is in use, or the folder or the users are not usable.
    """
    app = make_app(root, users, settings)
    bound = listener or bind(port)
    if bound.getsockname()[0] != HOST:
        raise HubError("The embedded Hub is for this machine only and binds to 127.0.0.1.")
    served = wrap(app)
    server = _server(served, app.settings)
    thread = threading.Thread(target=server.run, args=([bound],), name="embedded-hub", daemon=True)
    bound.listen(128)  # connections made before the thread is ready wait instead of being refused
    thread.start()
    try:
        yield Running(f"http://{HOST}:{bound.getsockname()[1]}", app.users, app.store, app, served)
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
        app.store.close()


def serve(root: Path, *, port: int = DEFAULT_PORT, users: Mapping[str, str | None] | None = None) -> None:
    """Serve until interrupted, after saying how to use it.

    Raises:
        HubError: the port is in use, or the folder or the users are not usable.
    """
    app = make_app(root, users)
    bound = bind(port)
    print("\n".join(greeting(f"http://{HOST}:{bound.getsockname()[1]}", app)), flush=True)
    with suppress(KeyboardInterrupt):
        _server(app, app.settings).run([bound])


def greeting(url: str, app: App) -> list[str]:
    """What is said at the start: the address, what to paste into the client's shell, and what this server is not."""
    name, *others = app.users
    also = f"  # or tokens/{', tokens/'.join(others)}" if others else ""
    return [
        f"Embedded Hub at {url} over {app.store.root}",
        "For development and air-gapped use: this machine only, no git. Ctrl-C stops it.",
        "",
        "In the client's shell, before Python starts:",
        f"  export HF_ENDPOINT={url} HF_HUB_DISABLE_XET=1",
        f"  export HF_TOKEN=$(cat {quote(str(token_file(app.store.root, name)))}){also}",
        "",
        f"Each user may write to their own namespace: {', '.join(app.users)}.",
        f"To look at what is there, open {url} in a browser; what is private shows after /login (user's name, token).",
    ]
