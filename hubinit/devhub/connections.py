"""One client's connection: what uvicorn leaves open without an end, closed in bounded time, and bounded in number."""

import asyncio
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .calls import Settings


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with three more limits.

    - The head of a request comes within `idle_seconds` of its first byte, however slowly; so does what is left of a body
      that was answered before its end, and dropped.
    - A client that does not read its answer for `unread_seconds` is disconnected.
    - When there are more than `max_connections`, the client that has been silent longest is disconnected, sooner one that has
      begun something than one that was answered. Everybody else is served: refusing the newest would let a thousand
      half-sent requests lock out who is honest.
    """

    def __init__(self, settings: Settings, **uvicorns: Any) -> None:
        """Args: settings: the limits; uvicorns: what uvicorn gives its protocols."""
        super().__init__(**uvicorns)
        self.settings = settings
        self.heard = 0.0
        self.deadline: asyncio.TimerHandle | None = None
        self.unread: asyncio.TimerHandle | None = None

    @property
    def at_rest(self) -> bool:
        """Whether nothing was asked that has not been answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def owed(self) -> bool:
        """Whether the client has to send something before anything can go on."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    @property
    def kept_alive(self) -> bool:
        """Whether all that was begun is finished, and something was."""
        return self.cycle is not None and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, and give the client its time."""
        super().connection_made(transport)
        self.heard = time.monotonic()
        self._set_deadline()
        others = (other for other in self.connections if isinstance(other, Connection))
        everyone = [other for other in others if not other.transport.is_closing()]
        if len(everyone) > self.settings.max_connections:
            waiting = [other for other in everyone if other.owed and other is not self] or [self]
            min(waiting, key=lambda other: (other.kept_alive, other.heard)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came; what is half a head, or the rest of a dropped body, does not get more time by it."""
        self.heard = time.monotonic()
        super().data_received(data)
        self._set_deadline()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one."""
        super().on_response_complete()
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        for timer in (self.deadline, self.unread):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self.unread = self.loop.call_later(self.settings.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        if self.unread is not None:
            self.unread.cancel()

    def _set_deadline(self) -> None:
        """Start the clock when the client has begun something it must finish; stop it when it has."""
        idle = self.timeout_keep_alive_task is not None and self.kept_alive  # then uvicorn's own clock runs
        if not self.at_rest or not self.owed or idle:
            if self.deadline is not None:
                self.deadline.cancel()
            self.deadline = None
        elif self.deadline is None:
            self.deadline = self.loop.call_later(self.settings.idle_seconds, self.transport.abort)
