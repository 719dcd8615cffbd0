"""What strangers may send in place of JSON and YAML: odd values put into valid texts, and texts that are odd altogether."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# Written by hand, because json.dumps does not go that deep.
RAW = {
    "@deep-list": "[" * 5000 + "]" * 5000,
    "@deep-object": '{"a":' * 5000 + "1" + "}" * 5000,
    "@unclosed": "[" * 100_000,
    "@long-integer": "9" * 5000,
    "@too-large": "1e999",
    "@tiny": "-1e-999",
    "@half-pair": r'"\ud800"',
    "@half-name": r'{"\udc00": 1}',
    "@zero": r'"a\u0000b"',
    "@twice": '{"path": 1, "path": {}}',
}
SCALARS = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**63,
    10**400,
    float("nan"),
    float("inf"),
    "",
    " ",
    "a",
    "..",
    "/",
    "😀" * 300,
]
SHAPES = [[], {}, [[]], [None], [{}], {"": {}}, ["a", 1], [1] * 5000, {"path": []}, {"key": "file", "value": None}]
ODD = st.sampled_from([*SCALARS, *SHAPES, *RAW]) | st.text(max_size=20) | st.integers() | st.floats()
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def written(value: Any) -> str:
    """A value as JSON, with the names of RAW replaced by what they stand for."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value, with each of its keys or indices."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


EVERYWHERE = [None, 5, 10**400, float("nan"), "", "a", [], [None], {}, *RAW]


def with_each_part_odd(valid: Any) -> Iterator[Any]:
    """A valid value with one part replaced: every part, by each of a few odd values."""
    for index in range(len(list(places([valid])))):
        for odd in EVERYWHERE:
            value = [copy.deepcopy(valid)]
            container, key = list(places(value))[index]
            container[key] = copy.deepcopy(odd)
            yield value[0]


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A valid value with one to three of its parts replaced, removed, added to, or itself something else."""
    value = [copy.deepcopy(valid)]
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(value))))
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if change == "add" and isinstance(container[key], dict):
            container[key][draw(st.text(max_size=8))] = copy.deepcopy(draw(JSON))
        elif change == "remove" and container is not value:
            del container[key]
        else:
            container[key] = copy.deepcopy(draw(JSON))  # the next change may be inside it
    return value[0]


YAML = [
    "&a [*a]",
    "&a {k: *a}",
    "a: &a [1]\n" + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]" for i in range(20)),
    "a: &a [" + "x, " * 1000 + "]\nb: [" + "*a, " * 1000 + "]",
    "a0: &a0 {x: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 25)),
    "!!python/object/apply:os.system [id]",
    "a: !!set {b, c}",
    "a: !!binary '?'",
    "a: !<tag:x,2000:y> 1",
    "%TAG ! tag:x,2000:\n---\n!x y",
    "%YAML 9.9\n--- a",
    "[" * 20_000,
    "{a: " * 5000,
    "- " * 20_000,
    "? " * 20_000,
    "a: " + "1:" * 20_000 + "59",
    "a: " + "9" * 5000,
    "a: " + "0x" + "f" * 990,
    "a: " + "1_" * 400 + "1",
    "a: 1e999\nb: .nan\nc: -.inf",
    "a: 2026-99-99",
    "a: 0000-00-00T99:99:99Z",
    "a: 0001-01-01T00:00:00+23:59",
    "a: 9999-12-31T23:59:59.9999999999999-23:59",
    "? [a]\n: b",
    "? {a: b}\n: c",
    ".nan: 1\n~: 2\n1: 3\ntrue: 4\n2026-01-01: 5",
    "a: b: c",
    "\ttab",
    "a: \0",
    "a: \ud800",
    'a: "\\ud800"',
    'a: "\\x00\\U0010FFFF"',
    "\ufeffa: 1",
    "---\n" * 2000,
    "a: |\n" + " x\n" * 50_000,
    "<<: 1",
    "? <<\n: {a: 1}",
    "=: 1",
    "a: =",
    "*undefined",
    "a" * (1 << 20) + "b",
    "",
]
_SIGNS = st.sampled_from(list("-:?[]{},#&*!|>'\"%@` \n\t~=<.0189eE_+xab"))
YAMLS = st.sampled_from(YAML) | st.text(_SIGNS, max_size=60) | st.text(max_size=60)
