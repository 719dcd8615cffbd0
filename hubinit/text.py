"""Text that others may have written, made safe to print and to put into Markdown."""

import re

from markupsafe import Markup


def one_line(text: object) -> str:
    """`text` without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def escape(text: object) -> Markup:
    """`text` as plain words on one line, whatever Markdown or HTML it holds."""
    if isinstance(text, Markup):
        return text
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore between letters (acc_norm) means nothing in Markdown.
    return Markup(re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], plain))  # noqa: S704


def code(text: object) -> Markup:
    """`text` as an inline code span, also inside a table."""
    plain = one_line(text).replace("`", "'").replace("|", "∣")
    return Markup(f"`{plain}`")  # noqa: S704


def fence(text: str, language: str = "") -> Markup:
    """`text` as a code block that its content cannot close."""
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return Markup(f"{ticks}{language}\n{text}\n{ticks}")  # noqa: S704
