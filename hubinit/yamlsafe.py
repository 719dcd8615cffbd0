"""YAML that others wrote, read with limits: what it expands to is bounded before anything is built."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_CHARACTERS = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 50
MAX_ALIASES = 100
_STRING_TAG = "tag:yaml.org,2002:str"
# YAML 1.1 reads 1:59:59 to base 60, in a time that grows with the square of the length.
_LONG_NUMBER = re.compile(r"[-+0-9_:.xa-fA-F]{1000,}")


def load_untrusted_yaml(text: str) -> Any:
    """What a YAML text from a stranger says, as JSON.

    The parser's events are looked at first: deep nesting crashes libyaml's composer, and merge keys (`<<`) expand while the
    text is loaded, so 640 bytes can take hours. Aliases do not, but let a kilobyte stand for gigabytes of JSON: what they
    stand for is counted before it is written out.

    Raises:
        ValueError: the text is not YAML, uses merge keys or tags, or is unreasonably large or deep.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError("it is too large")
    try:
        _check_events(text)
        content = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not valid YAML: {' '.join(str(error).split())}") from error
    characters = 0
    for count, weight in enumerate(_weights(content, 0)):
        characters += weight
        if count > MAX_NODES or characters > MAX_CHARACTERS:
            raise ValueError("it is too large")
    try:
        return json.loads(json.dumps(content, default=str), parse_constant=str)  # JSON does not have NaN
    except TypeError as error:
        raise ValueError("it has a key that is not text") from error


def front_matter(text: str) -> dict[str, Any]:
    """The YAML block at the top of a card; empty when there is none.

    Raises:
        ValueError: it is not YAML, not a mapping, or unreasonably large.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    block, end, _ = text[4:].partition("\n---")
    if not end:
        return {}
    try:
        content = load_untrusted_yaml(block)
    except ValueError as error:
        raise ValueError(f"The metadata cannot be used: {error}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError("The metadata must be a mapping.")
    return content


def _check_events(text: str) -> None:
    """Refuse what would be expensive to load, while nothing is loaded yet."""
    depth = aliases = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if count > 2 * MAX_NODES or aliases > MAX_ALIASES:
            raise ValueError("it is too large")
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if getattr(event, "tag", None) not in (None, "!", _STRING_TAG):
            raise ValueError("it uses tags such as !!set, which are not read here")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
            if event.value == "<<":
                raise ValueError("it uses merge keys (<<), which are not read here")
            if _LONG_NUMBER.fullmatch(event.value):
                raise ValueError("it holds a number that is too long")


def _weights(value: Any, depth: int) -> Iterator[int]:
    """The characters of each node that the content would have as JSON; an alias counts as what it stands for."""
    if depth > MAX_DEPTH:
        raise ValueError("it refers to itself")
    yield len(value) if isinstance(value, str) else 1
    children = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _weights(child, depth + 1)
