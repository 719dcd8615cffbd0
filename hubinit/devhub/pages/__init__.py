"""Pages of the embedded Hub for a person with a browser: an index, and per repo its card, files and history.

Nothing can be changed here. The addresses are the Hub's own. A page is answered only to who asks for HTML; the same
path asked by a client is what it was.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from ..calls import Call
from ..cards import CARD_MAX_BYTES, metadata
from ..files import listing, within
from ..names import REPO_TYPES, RepoType
from ..records import Entry, Repo
from ..refusals import Refusal, bad_request, entry_not_found
from .browser import html
from .markdown import rendered

Item = TypeVar("Item")
Page = Callable[[Call], Response]

PAGE_SIZE = 200
TEXT_MAX_BYTES = 256 << 10
PICTURE_MAX_BYTES = 8 << 20
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
INDEXES: dict[str, RepoType] = {"": "model", **{f"{repo_type}s": repo_type for repo_type in REPO_TYPES}}


def find_page(segments: list[str]) -> Page | None:
    """The page of a path; None when it has none.

    Args:
        segments: the parts of the path, unquoted.
    """
    *kept, last = segments
    segments = kept if kept and not last else segments
    if segments == ["login"]:
        return sign_in
    if len(segments) == 1:
        repo_type = INDEXES.get(segments[0])
        return (lambda call: index(call, repo_type)) if repo_type else None
    typed = segments[0] in ("datasets", "spaces")
    kind, parts = (INDEXES[segments[0]], segments[1:]) if typed else ("model", segments)
    if len(parts) < 2:
        return None
    namespace, name, *action = parts
    view = VIEWS.get(action[0] if action else "")
    return (lambda call: view(call, call.find(kind, f"{namespace}/{name}"), action[1:])) if view else None


def sign_in(call: Call) -> Response:
    """GET /login: the browser asks its person, then the index."""
    if call.user is None:
        raise Refusal(401, "Sign in with a user's name, and the user's token as the password.")
    return RedirectResponse(
        f"{call.base_url}/", status_code=303
    )  # whole: a browser would keep a name and token of the address


def index(call: Call, repo_type: RepoType) -> Response:
    """GET /, /models, /datasets, /spaces: the repos that the asker may see, by id."""
    readable = (repo for repo in call.store.repos(repo_type) if call.may_read(repo))
    repos, following = window(call, readable)
    rows = [(repo, address(repo), call.store.commit_of(repo.head).date) for repo in repos]
    kinds = [(kind, f"/{kind}s", kind == repo_type) for kind in REPO_TYPES]
    return html("index", user=call.user, title=f"{repo_type.title()}s", kinds=kinds, rows=rows, following=following)


def card(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET /ID: the card of a repo, and what is known of it."""
    sha = repo.head
    facts, tree = metadata(call.store, repo.type, sha), call.store.tree_of(sha)
    entry = tree.get("README.md")
    may_see = repo.grants(call.user)
    text = block = None
    if may_see and entry and entry.size <= CARD_MAX_BYTES:
        block, text = _split(call.store.blobs.path(entry.sha256).read_text(encoding="utf-8", errors="replace"))
    base = address(repo)
    shown = rendered(text, f"{base}/blob/{sha}", f"{base}/resolve/{sha}") if text else None
    size = sum(item.size for item in tree.values())
    return _repo_page(
        call, repo, "main", "card", facts=facts, card=shown, block=block, may_see=may_see, files=len(tree), size=size
    )


def _split(text: str) -> tuple[str, str]:
    """The YAML block at the top of a card, and what follows it."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return "", text
    block, end, body = text[4:].partition("\n---")
    return (block, body.partition("\n")[2]) if end else ("", text)


def folder(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET /ID/tree/REV[/FOLDER]: what is in a folder."""
    revision, path = (rest[0] if rest else "main"), "/".join(rest[1:])
    sha = call.store.resolve(repo, revision)
    tree = call.store.tree_of(sha)
    if path and not within(tree, path):
        raise entry_not_found(path, sha)
    objects, following = window(call, listing(tree, path, recursive=False))
    base = f"{address(repo)}/%s/{quote(revision, safe='')}/"
    rows = [
        (
            item["path"].rpartition("/")[2],
            base % ("blob" if "size" in item else "tree") + quote(item["path"]),
            item.get("size"),
        )
        for item in objects
    ]
    return _repo_page(call, repo, revision, "tree", path=path, rows=rows, following=following)


def file(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET /ID/blob/REV/PATH: a text file, a picture, or that there is nothing to look at."""
    if len(rest) < 2:
        raise bad_request("The path of a file is missing.")
    call.require_content(repo)
    revision, path = rest[0], "/".join(rest[1:])
    sha = call.store.resolve(repo, revision)
    entry = call.store.entry(repo, sha, path)
    picture = PurePosixPath(path).suffix.lower() in PICTURES and entry.size <= PICTURE_MAX_BYTES
    text = None if picture else _text(call, entry)
    content = f"{address(repo)}/resolve/{sha}/{quote(path)}"
    cut = entry.size > TEXT_MAX_BYTES
    return _repo_page(
        call, repo, revision, "file", path=path, entry=entry, content=content, picture=picture, text=text, cut=cut
    )


def _text(call: Call, entry: Entry) -> str | None:
    with call.store.blobs.path(entry.sha256).open("rb") as blob:
        start = blob.read(TEXT_MAX_BYTES)
    return None if b"\0" in start else start.decode(errors="replace")


def history(call: Call, repo: Repo, rest: list[str]) -> Response:
    """GET /ID/commits/REV: the history, newest first."""
    revision = rest[0] if rest else "main"
    commits, following = window(call, call.store.history(call.store.resolve(repo, revision)))
    base = address(repo)
    rows = [(sha, f"{base}/tree/{sha}", commit) for sha, commit in commits]
    return _repo_page(call, repo, revision, "commits", rows=rows, following=following)


def window(call: Call, items: Iterable[Item]) -> tuple[list[Item], int | None]:
    """The items of the page that the request asks for, and the number that the next page begins with.

    Raises:
        Refusal: (400) `cursor` is not a whole number.
    """
    cursor = call.query.get("cursor", "0")
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        raise bad_request("cursor must be a whole number.")
    start = int(cursor)
    found = list(islice(items, start, start + PAGE_SIZE + 1))
    return found[:PAGE_SIZE], start + PAGE_SIZE if len(found) > PAGE_SIZE else None


def address(repo: Repo) -> str:
    """The path of a repo's page."""
    prefix = "" if repo.type == "model" else f"/{repo.type}s"
    return f"{prefix}/{repo.id}"


def _repo_page(call: Call, repo: Repo, revision: str, template: str, **facts: Any) -> Response:
    """A page of a repo, with what all of them show."""
    base, at = address(repo), quote(revision, safe="")
    tabs = [
        ("Card", base, template == "card"),
        ("Files", f"{base}/tree/{at}", template in ("tree", "file")),
        ("Commits", f"{base}/commits/{at}", template == "commits"),
    ]
    names = [ref.removeprefix("refs/heads/").removeprefix("refs/tags/") for ref in sorted(repo.refs)]
    view = "commits" if template == "commits" else "tree"
    refs = [(name, f"{base}/{view}/{quote(name, safe='')}", name == revision) for name in names[:PAGE_SIZE]]
    return html(
        template,
        user=call.user,
        title=repo.id,
        repo=repo,
        base=base,
        at=at,
        revision=revision,
        tabs=tabs,
        refs=refs,
        **facts,
    )


VIEWS: dict[str, Callable[[Call, Repo, list[str]], Response]] = {
    "": card,
    "tree": folder,
    "blob": file,
    "commits": history,
}
