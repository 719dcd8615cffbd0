"""What a browser is, to the embedded Hub: how it is told from a client, how its person signs in, and what it is sent.

A person signs in by HTTP Basic, with a user's name and token, at `/login`. A browser keeps that for one origin, port included
(a cookie would go to every server of this machine, also to that of someone else), and never puts it into an address. Since it
sends it with whatever a page of any site asks for, Basic counts only where something is read, never in the API, and only when
the browser says that this site's own page or the person asked.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ..refusals import Refusal
from ..users import user_of

REALM = 'Basic realm="Embedded Hub: user name, and token as password", charset="UTF-8"'
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
POLICY = {
    "default-src": "'none'",
    "style-src": f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept, Authorization",
}


def only_reads(request: Request) -> bool:
    """Whether a request reads something that has an address for people: not the API, nor an upload."""
    first = request.url.path.split("/")[1]
    return request.method in ("GET", "HEAD") and first not in ("api", "lfs")


def browses(request: Request) -> bool:
    """Whether a browser asks for something to look at; the clients of the API do not say that they take HTML."""
    return only_reads(request) and "text/html" in request.headers.get("accept", "")


def basic_user(request: Request, users: Mapping[str, str], credentials: str) -> str | None:
    """Who signed in by HTTP Basic; None when nobody did, or when it does not count for this request."""
    site, mode = (request.headers.get(f"sec-fetch-{part}", "") for part in ("site", "mode"))
    foreign = site in ("cross-site", "same-site") and mode != "navigate"
    if not only_reads(request) or foreign:
        return None
    try:
        name, _, token = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return None
    user = user_of(users, token)
    return user if user == name else None


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["style"] = Markup(STYLE)  # noqa: S704 - ours
    return templates


def html(template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **facts: Any) -> HTMLResponse:
    """A page; everything in `facts` is escaped, unless it is Markup."""
    text = _templates().get_template(f"{template}.html.j2").render(facts)
    return HTMLResponse(text, status_code=status, headers={**(headers or {}), **HEADERS})


def refused(refusal: Refusal) -> HTMLResponse:
    """The page that says no; the browser asks who its person is where the answer could then be another."""
    challenge = {"WWW-Authenticate": REALM} if refusal.status == 401 else {}
    facts = {
        "user": None,
        "title": f"Error {refusal.status}",
        "message": str(refusal),
        "sign_in": refusal.status == 401,
    }
    return html("error", status=refusal.status, headers=refusal.headers | challenge, **facts)
