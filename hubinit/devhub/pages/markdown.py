"""Cards that others wrote, as HTML that can do nothing: no script, no style, nothing fetched from elsewhere.

markdown-it renders and nh3 (ammonia) keeps only the elements and attributes named here; the pages' Content-Security-Policy would
stop what got past both. What would cost much to render is shown as it was written.
"""

import posixpath
import re
from functools import cache, lru_cache
from urllib.parse import quote, unquote, urlsplit

from markdown_it import MarkdownIt
from markupsafe import Markup
from nh3 import Cleaner

MAX_CHARACTERS = 128 << 10
MAX_TAGS = 1400
MAX_REPEATED = 20_000_000
ELEMENTS = (
    {"h1", "h2", "h3", "h4", "h5", "h6", "p", "div", "blockquote", "pre", "hr", "br", "details", "summary", "img"}
    | {"ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td"}
    | {"a", "b", "code", "del", "em", "i", "kbd", "s", "span", "strong", "sub", "sup"}
)
ATTRIBUTES = {
    "a": {"href", "title"},
    "img": {"src", "alt", "title", "width", "height"},
    "ol": {"start"},
} | {name: {"align"} for name in ("div", "h1", "h2", "h3", "p", "td", "th")}
SCHEMES = frozenset({"http", "https", "mailto"})


@lru_cache(maxsize=256)
def rendered(text: str, blob: str, resolve: str, folder: str = "") -> Markup:
    """A Markdown text from a stranger, safe to put into a page.

    Args:
        text: without its YAML block.
        blob: the path under which a file of the same commit has its page, for links.
        resolve: the path under which its content is, for pictures.
        folder: where in the repo the text is.
    """
    if is_costly(text):
        return Markup("<pre>{}</pre>").format(text)

    def address(element: str, name: str, value: str) -> str | None:
        if name == "src":
            return _inside(resolve, folder, value)
        if name != "href" or value.startswith("#") or urlsplit(value).scheme in SCHEMES:
            return value  # nh3 looks at the scheme again
        return _inside(blob, folder, value)

    cleaner = Cleaner(
        tags=ELEMENTS,
        attributes=ATTRIBUTES,
        attribute_filter=address,
        url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(cleaner.clean(_parser().render(text)))  # noqa: S704


def is_costly(text: str) -> bool:
    """Whether a short text could become a page too long to make.

    An element that is never closed is opened again in every paragraph after it (the parsing of HTML asks for that), so what tags
    become grows with the square of their number; a link's definition, of at most a paragraph, is written out in every link that
    names it, so brackets multiply with the longest paragraph.
    """
    paragraph = max(map(len, re.split(r"\n[ \t]*\n", text))) if "]:" in text else 0
    repeated = text.count("[") * paragraph
    return len(text) > MAX_CHARACTERS or text.count("<") > MAX_TAGS or repeated > MAX_REPEATED


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def _inside(base: str, folder: str, value: str) -> str | None:
    """The path of a file that a card names relative to itself; None when it is not one of the repo's."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    path = posixpath.normpath(posixpath.join(folder, unquote(parts.path)))
    outside = parts.scheme or parts.netloc or not parts.path or path.startswith(("/", ".."))
    if outside or re.search(r"[\\\x00-\x1f]", path):
        return None
    return f"{base}/{quote(path)}"
