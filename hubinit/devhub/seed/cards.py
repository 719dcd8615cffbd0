"""The README of a seeded repository: what it is, where every byte came from, under which licence."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from .wheels import Wheel

_TEMPLATE = Path(__file__).with_name("card.md.j2")


def render(
    *,
    title: str,
    metadata: dict[str, Any],
    license_note: str,
    description: str,
    wheel: Wheel,
    contents: list[dict[str, Any]],
) -> bytes:
    """The card of a seeded repository.

    Args:
        title: Heading, the repository's name.
        metadata: The YAML front matter: licence, configurations, tags.
        license_note: What is known about the licence, in a sentence.
        description: What the repository holds and how it differs from its original.
        wheel: Where the content came from.
        contents: Rows of the table of contents, each with `config`, `split`, `rows`; empty for a model.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - Markdown
    front_matter = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        front_matter=front_matter,
        license_note=license_note,
        description=description,
        wheel=wheel,
        contents=contents,
    )
    return text.encode()
