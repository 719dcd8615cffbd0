"""YAML from strangers: what it may hold, and that nothing takes long."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubinit.yamlsafe import load_untrusted_yaml


def merge_bomb(levels: int) -> str:
    lines = ["a0: &a0 {k: v}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels)]
    return "\n".join(lines)


BOMBS = {
    "merge keys": merge_bomb(30),
    "tagged merge keys": merge_bomb(30).replace("<<:", "!!merge x:"),
    "aliases": "\n".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else 'x'] * 9)}]" for n in range(9)),
    "many scalars": "[" + "a," * 400_000 + "]",
    "a number to base 60": "a: " + "59:" * 300_000 + "1",
    "a tagged number to base 60": "a: !!int '" + "59:" * 300_000 + "1'",
    "depth": "[" * 100_000,
    "pairs": "!!omap [" + "{a: 1}," * 10_000 + "]",
    "itself": "&a [*a]",
    "size": "a" * 2_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name):
    start = time.monotonic()
    with pytest.raises(ValueError):
        load_untrusted_yaml(BOMBS[name])
    assert time.monotonic() - start < 1


def test_what_cards_hold_is_read():
    text = "tags: &t [a, 'b']\nmore: *t\nn: 1e-3\nx: .nan\nwhen: 2024-01-02\n'<<': text\nq: \"<<\"\ns: !!str 5"
    read = load_untrusted_yaml(text)
    assert read["more"] == read["tags"] == ["a", "b"]
    assert (read["x"], read["when"], read["q"], read["<<"], read["s"]) == ("NaN", "2024-01-02", "<<", "text", "5")


@given(st.text(alphabet="ab:&*<>-[]{}!|'\"?,.~0159 \n", max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ValueError):
        load_untrusted_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        f"a: &a {'w' * 20_000}\nb: &b [{', '.join(['*a'] * 30)}]\nc: [{', '.join(['*b'] * 30)}]",
        "\n".join(f"k{number}: 2001-01-01" for number in range(45_000)),
        f"a: {':'.join(['59'] * 330)}.5",
    ],
    ids=["aliased text", "dates", "a float to base 60"],
)
def test_what_unfolds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"too large|not valid YAML"):
        load_untrusted_yaml(text)
