"""One request as the routes see it: parsed, authenticated, with the questions of permission they all ask."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse

from .bodies import parse_json
from .names import RepoType
from .records import Repo
from .refusals import Refusal, bad_request, repo_not_found
from .store import Store

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """Limits of a server; tests make them small."""

    json_max_bytes: int = 8 << 20
    commit_max_bytes: int = 256 << 20
    multipart_min_bytes: int = 64 << 20
    part_bytes: int = 16 << 20
    page_size: int = 1000
    upload_seconds: int = 6 * 3600
    anonymous_max_bytes: int = 2 << 20
    idle_seconds: float = 30
    body_seconds: float = 600
    unread_seconds: float = 300
    max_connections: int = min(500, getrlimit(RLIMIT_NOFILE)[0] // 2)  # each may have a file open


class BodyNeeded(Exception):
    """A handler got as far as the body, which has not been read yet."""


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes:
        store: the state.
        settings: the server's limits.
        secret: the key that signs upload addresses.
        method: GET, POST, …
        raw_path: the path as sent, still percent-encoded.
        query: the query parameters.
        headers: the request headers.
        user: who asks; None is anonymous.
        accounts: all users' names.
        base_url: the address under which the client knows this server.
        body: the whole body; None until a handler has asked for it.
    """

    store: Store
    settings: Settings
    secret: bytes
    method: str
    raw_path: str
    query: QueryParams
    headers: Headers
    user: str | None
    accounts: frozenset[str]
    base_url: str
    body: bytes | None = field(default=None, repr=False)

    def content(self) -> bytes:
        """The body. Whoever asks has checked permission before, and has not changed anything yet.

        Raises:
            BodyNeeded: it is read now, and the handler called again.
        """
        if self.body is None:
            raise BodyNeeded
        return self.body

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Refusal: (400) the body is something else.
        """
        try:
            content = parse_json(self.content() or b"{}")
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise bad_request("The body must be a JSON object.")
        return content

    def flag(self, name: str) -> bool:
        """Whether a query parameter is set to something true."""
        return self.query.get(name, "").lower() in ("1", "true")

    def signed_in(self) -> str:
        """The user's name.

        Raises:
            Refusal: (401) the asker is anonymous.
        """
        if self.user is None:
            raise Refusal(401, "This needs a token: set HF_TOKEN.")
        return self.user

    def owns(self, repo: Repo) -> bool:
        """Whether the asker may write to a repo."""
        return self.user == repo.owner

    def may_read(self, repo: Repo) -> bool:
        """Whether a repo exists for the asker."""
        return self.owns(repo) or not repo.private

    def find(self, repo_type: RepoType, repo_id: str) -> Repo:
        """The repo that the request names.

        Raises:
            Refusal: the repo does not exist (404, 401 to the anonymous), is private to others (the same), or was moved (307).
        """
        missing = repo_not_found(repo_id, signed_in=self.user is not None)
        try:
            repo = self.store.lookup(repo_type, repo_id)
            if repo.moved_to and self.may_read(self.store.lookup(repo_type, repo.moved_to)):
                path = self.raw_path.replace(f"/{repo_id}", f"/{repo.moved_to}", 1)
                query = f"?{self.query}" if self.query else ""
                location = {"Location": f"{self.base_url}{path}{query}"}
                raise Refusal(307, f"{repo_id} was renamed to {repo.moved_to}.", headers=location)
        except Refusal as refusal:
            raise missing if refusal.status in (400, 404) else refusal from None
        if repo.moved_to or not self.may_read(repo):
            raise missing
        return repo

    def require_write(self, repo: Repo) -> str:
        """The user's name, who owns this repo.

        Raises:
            Refusal: (401, 403) they do not.
        """
        user = self.signed_in()
        if not self.owns(repo):
            raise Refusal(
                403, f"{user} has no write access to {repo.id}; open a pull request instead (create_pr=True)."
            )
        return user

    def require_content(self, repo: Repo) -> None:
        """Let pass who may read the files of a repo.

        Raises:
            Refusal: (401 anonymous, 403 signed in; GatedRepo) it is gated and the asker was not granted access.
        """
        if not repo.grants(self.user):
            status = 403 if self.user else 401
            raise Refusal(status, f"Access to {repo.id} is restricted and you are not in the list.", code="GatedRepo")

    def page(
        self,
        items: Iterable[Item],
        show: Callable[[Item], Any] = lambda item: item,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> JSONResponse:
        """One page of a list, with the address of the next one in `Link`.

        Args:
            items: all of the list.
            show: turns an item of the page into JSON.
            headers: further response headers.

        Raises:
            Refusal: (400) `limit` or `cursor` is not a whole number.
        """
        try:
            limit = int(self.query.get("limit") or self.settings.page_size)
            start = int(self.query.get("cursor") or 0)
        except ValueError:
            limit = start = -1
        if limit < 1 or not 0 <= start < 1 << 40:
            raise bad_request("limit and cursor must be whole numbers.")
        limit = min(limit, self.settings.page_size)
        page = list(islice(items, start, start + limit + 1))
        links = dict(headers or {})
        if len(page) > limit:
            kept = [(name, value) for name, value in self.query.multi_items() if name != "cursor"]
            address = f"{self.base_url}{self.raw_path}?{urlencode([*kept, ('cursor', str(start + limit))])}"
            links["Link"] = f'<{address}>; rel="next"'
        return JSONResponse([show(item) for item in page[:limit]], headers=links)


def web_url(call: Call, repo_type: RepoType, repo_id: str) -> str:
    """The address of a repo's page, which clients parse to learn its id."""
    prefix = "" if repo_type == "model" else f"{repo_type}s/"
    return f"{call.base_url}/{prefix}{repo_id}"
