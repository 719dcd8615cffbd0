"""Faults on purpose, for tests of clients: a wrapper around the application that fails by a seeded plan.

Some faults come before the request has any effect (`429`, `500`, `503`, `drop`, `stale`, `delay`), others after it was
carried out, when only the answer suffers (`lost`, `cut`, `truncate`): those tell whether a client's retry repeats what was
already done.
"""

import json
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KINDS = ("429", "500", "503", "drop", "stale", "delay", "lost", "cut", "truncate")


@dataclass
class FaultPlan:
    """Which requests fail and how.

    Commits, downloads and other requests are counted apart: the n-th commit meets the same fault whatever else happens in
    between. Faults are dealt like cards, so every kind that applies comes once before any comes again.

    Attributes:
        seed: the same seed and the same number of earlier requests of a sort give the same fault.
        rate: the share of matching requests that fail.
        kinds: the kinds to deal. `stale` applies to commits only, `truncate` to downloads only.
        routes: a regular expression that must be found in `METHOD /path`.
        delay_seconds: how long `delay` waits.
        retry_after: the `Retry-After` of a `429`, in seconds.
        limit: after so many faults everything works.
        injected: what was done so far, as (kind, `METHOD /path`).
    """

    seed: int = 0
    rate: float = 0.1
    kinds: tuple[str, ...] = KINDS
    routes: str = ""
    delay_seconds: float = 0.2
    retry_after: int = 1
    limit: int | None = None
    injected: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Shuffle one endless deck of faults per sort of request."""
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"unknown kinds of faults: {unknown}; there are {KINDS}")
        self._draws = {sort: self._deal(sort) for sort in ("commit", "download", "other")}
        self._lock = threading.Lock()

    def draw(self, method: str, path: str) -> str | None:
        """The fault for this request, if any."""
        request = f"{method} {path}"
        with self._lock:
            if not re.search(self.routes, request) or (self.limit is not None and len(self.injected) >= self.limit):
                return None
            kind = next(self._draws[sort_of(method, path)])
            if kind is not None:
                self.injected.append((kind, request))
            return kind

    def _deal(self, sort: str) -> Iterator[str | None]:
        """What befalls the first request of a sort, the second, and so on; most are left alone."""
        chance = random.Random(f"{self.seed} {sort}")  # noqa: S311 - reproducible on purpose
        only = {"stale": "commit", "truncate": "download"}
        deck: list[str | None] = [kind for kind in self.kinds if only.get(kind, sort) == sort]
        while True:
            for kind in chance.sample(deck or [None], len(deck) or 1):
                while chance.random() >= self.rate:
                    yield None
                yield kind


def sort_of(method: str, path: str) -> str:
    """Whether a request is a commit, the download of a file, or another one."""
    if method == "POST" and "/commit/" in path:
        return "commit"
    return "download" if method == "GET" and "/resolve/" in path else "other"


class Faults:
    """The application, failing while a plan is set."""

    def __init__(self, app: ASGIApp, plan: FaultPlan | None = None) -> None:
        """Args: app: the application; plan: None lets everything pass."""
        self.app = app
        self.plan = plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or fail at it."""
        plan = self.plan
        kind = plan.draw(scope["method"], scope["path"]) if plan and scope["type"] == "http" else None
        if plan is None or kind is None:
            await self.app(scope, receive, send)
        elif kind == "delay":
            await anyio.sleep(plan.delay_seconds)
            await self.app(scope, receive, send)
        elif kind in ("lost", "cut", "truncate"):
            await self._spoil_answer(kind, scope, receive, send)
        elif kind == "drop":
            abort(receive)
        else:
            await _drain(receive)
            await _refuse(kind, plan, send)

    async def _spoil_answer(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the request out, then lose the answer, cut it in the middle, or send half of it as if that were all."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, keep)
        if kind == "lost":
            return abort(receive)
        start, body = messages[0], b"".join(message.get("body", b"") for message in messages[1:])
        half = body[: len(body) // 2]
        if kind == "cut":
            await send(start)
            await send({"type": "http.response.body", "body": half, "more_body": True})
            return abort(receive)
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(half)).encode())]})
        await send({"type": "http.response.body", "body": half})


def abort(receive: Receive) -> None:
    """Close the connection without an answer. ASGI has no message for it, so this reaches for uvicorn's transport."""
    cycle: Any = receive.__self__  # type: ignore[attr-defined]
    cycle.disconnected = True
    cycle.response_started = cycle.response_complete = True
    cycle.transport.abort()


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def _refuse(kind: str, plan: FaultPlan, send: Send) -> None:
    status = 412 if kind == "stale" else int(kind)
    body = json.dumps({"error": f"fault on purpose: {kind}"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 429:
        headers.append((b"retry-after", str(plan.retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
