"""The embedded Hub as an ASGI application: finds the route, authenticates, and turns refusals into what clients understand.

Routes are found on the path as it was sent: a revision such as `refs%2Fpr%2F3` is one segment, and only then unquoted.
"""

import errno
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from . import access, commits, discussions, evals, files, lfs, listing, refs, repos
from .bodies import check_content_type, read_body
from .calls import BodyNeeded, Call, Settings
from .names import ACTIONS, REPO_TYPES, RepoType
from .pages import browser, find_page
from .records import Repo
from .refusals import Refusal, bad_request
from .store import Store
from .users import user_of

log = logging.getLogger(__name__)

RepoHandler = Callable[[Call, Repo, list[str]], Any]
LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
SUBJECTS = (access, commits, discussions, evals, files, lfs, listing, refs, repos)
REPO_ROUTES: dict[tuple[str, str], RepoHandler] = {
    route: handler for part in SUBJECTS for route, handler in part.ROUTES.items()
}
ROOT_ROUTES: dict[tuple[str, str], Callable[[Call], Any]] = {**repos.ROOT_ROUTES}
PLURALS: dict[str, RepoType] = {f"{repo_type}s": repo_type for repo_type in REPO_TYPES}


class App:
    """The application over one store."""

    def __init__(self, store: Store, users: dict[str, str], settings: Settings | None = None) -> None:
        """Args: store: the state; users: name to token; settings: the limits."""
        self.store = store
        self.users = users
        self.settings = settings or Settings()
        self.secret = lfs.server_secret(store.root)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self.answer(request)
        except Refusal as refusal:
            response = browser.refused(refusal) if browser.browses(request) else refused(refusal)
        except ClientDisconnect:
            return
        except Exception as error:
            response = failed(error, request)
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """Find the route, run the handler in a thread, and read the body when the handler wants it."""
        raw_path = request.scope.get("raw_path", request.scope["path"].encode()).decode("ascii", "replace")
        segments = [unquote(segment) for segment in raw_path.split("/")[1:]]
        if "\0" in "".join(segments) or not raw_path.isascii():
            raise bad_request("The path holds a zero byte, or is not percent-encoded.")
        call = self.call(request, raw_path)
        if segments[0] == "lfs" and request.method == "PUT" and segments[1:] in (["upload"], ["part"]):
            return await lfs.receive_upload(call, request, segments[1])
        handler = (browser.browses(request) and find_page(segments)) or route(call.method, segments)
        check_content_type(request)
        try:
            answer = await run_in_threadpool(handler, call)
        except BodyNeeded:  # so the handler has found nothing to refuse by the path and the user
            limit, limits = self.limit(call, segments), self.settings
            body = await read_body(request, limit, limits.idle_seconds, limits.body_seconds)
            answer = await run_in_threadpool(handler, replace(call, body=body))
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    def limit(self, call: Call, segments: list[str]) -> int:
        """How many bytes the body of a request may have: those who may not write anything send little."""
        if call.user is None:
            return min(self.settings.anonymous_max_bytes, self.settings.json_max_bytes)
        return self.settings.commit_max_bytes if "commit" in segments else self.settings.json_max_bytes

    def call(self, request: Request, raw_path: str) -> Call:
        """The request as the routes see it.

        Raises:
            Refusal: the host is not this machine (421), or the token is nobody's (401).
        """
        host = request.headers.get("host", "")
        if not LOOPBACK_HOST.fullmatch(host):
            raise Refusal(421, "The embedded Hub answers under names of this machine only.")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            user = browser.basic_user(request, self.users, token.strip())
        else:
            user = user_of(self.users, token.strip()) if kind.lower() == "bearer" else None
        if kind and user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        method = "GET" if request.method == "HEAD" else request.method
        return Call(
            store=self.store,
            settings=self.settings,
            secret=self.secret,
            method=method,
            raw_path=raw_path,
            query=request.query_params,
            headers=request.headers,
            user=user,
            accounts=frozenset(self.users),
            base_url=f"http://{host}",
        )


def refused(refusal: Refusal) -> Response:
    """The response that says no, in the headers huggingface_hub decides by."""
    message = str(refusal)
    printable = "".join(character if " " <= character <= "~" else "?" for character in message)
    headers = {"X-Error-Message": printable, **refusal.headers}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    return JSONResponse({"error": message}, status_code=refusal.status, headers=headers)


def failed(error: Exception, request: Request) -> Response:
    """The response to a request that the server could not carry out: a full disk is said, anything else is a bug and logged."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return refused(Refusal(507, "The embedded Hub's disk is full."))
    # Clients repeat a 500 for many seconds, so it must be loud here.
    log.error("the embedded Hub failed on %s %s", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": f"The embedded Hub failed: {type(error).__name__}"}, status_code=500)


def route(method: str, segments: list[str]) -> Callable[[Call], Any]:
    """The handler of a path.

    Raises:
        Refusal: (404) nothing is served under this path.
    """
    if segments[0] == "api":
        return _api_route(method, segments[1:])
    if segments[0] == "lfs" and (handler := lfs.ROOT_ROUTES.get((method, "/".join(segments[1:])))):
        return handler
    repo_type: RepoType = "model"
    if segments[0] in ("datasets", "spaces"):
        repo_type, segments = PLURALS[segments[0]], segments[1:]
    if segments[-4:] == ["info", "lfs", "objects", "batch"] and method == "POST" and len(segments) == 6:
        name = segments[1].removesuffix(".git")
        return lambda call: lfs.batch(call, call.find(repo_type, f"{segments[0]}/{name}"))
    repo_id, action, rest = split_repo(segments)
    if action == "ask-access" and method == "POST":
        return lambda call: access.ask(call, call.find(repo_type, repo_id))
    if action in ("resolve", "raw") and method == "GET":
        return lambda call: files.resolve(call, call.find(repo_type, repo_id), rest)
    raise Refusal(404, "The embedded Hub has no such page; it serves the API that huggingface_hub speaks.")


def _api_route(method: str, segments: list[str]) -> Callable[[Call], Any]:
    if handler := ROOT_ROUTES.get((method, "/".join(segments))):
        return handler
    repo_type = PLURALS.get(segments[0] if segments else "")
    if repo_type is None:
        raise Refusal(404, "The embedded Hub does not have this part of the API.")
    if len(segments) == 1 and method == "GET":
        return lambda call: listing.repo_list(call, repo_type)
    repo_id, action, rest = split_repo(segments[1:])
    repo_handler = REPO_ROUTES.get((method, action))
    if repo_handler is None:
        raise Refusal(404, "The embedded Hub does not have this part of the API.")
    return lambda call: repo_handler(call, call.find(repo_type, repo_id), rest)


def split_repo(segments: list[str]) -> tuple[str, str, list[str]]:
    """Id, action and what follows; an id without namespace is recognised by the action after it, and does not exist here."""
    if len(segments) >= 2 and segments[1] not in ACTIONS:
        return "/".join(segments[:2]), segments[2] if len(segments) > 2 else "", segments[3:]
    return segments[0], segments[1] if len(segments) > 1 else "", segments[2:]
