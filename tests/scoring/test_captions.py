"""METEOR, ROUGE-L and CIDEr: equal to the caption code where Java and the package are there, one sentence where they are not."""

import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hubinit.scoring import captions
from hubinit.scoring.captions import JavaError, cider, meteor, rouge_l, treebank
from hubinit.scoring.e2e import treebank_all

needs_java = pytest.mark.skipif(
    shutil.which("java") is None or find_spec("pycocoevalcap") is None,
    reason="needs Java and pip install 'hubinit[e2e]'",
)
TEXTS = [
    "The Eagle is a cheap pub near Burger King.",
    'Cocum (a "coffee shop") isn\'t cheap; it costs £20-25 ||| more!',
    "Aromi is in riverside .",  # equal to a reference
    "",
]
REFERENCES = [
    ["Near Burger King is The Eagle, a cheap pub.", "The Eagle is an inexpensive bar  close to Burger King."],
    ["Cocum is a coffee shop, which costs £20-25."],
    ["You find Aromi by the river.", "Aromi is in riverside."],
    ["The Mill is a pub."],
]
COUNTS = "5 5 1 1 2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 2 3 3"


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of Java, and the jars' names in the place of the package."""
    for name, line in (
        ("tokenizer/ptbtokenizer.py", "PUNCTUATIONS = ['.']\nSTANFORD_CORENLP_3_4_1_JAR = 'tokenizer.jar'\n"),
        ("meteor/meteor.py", "METEOR_JAR = 'meteor.jar'\n"),
    ):
        (tmp_path / "site/pycocoevalcap" / name).parent.mkdir(parents=True)
        (tmp_path / "site/pycocoevalcap" / name).write_text(line)
    for name in [name for name in sys.modules if name.startswith("pycocoevalcap")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(captions, "LIMIT", 20)

    def write(script: str) -> None:
        program = tmp_path / "bin" / "java"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    yield write
    for name in [name for name in sys.modules if name.startswith("pycocoevalcap")]:
        del sys.modules[name]


def test_without_java_it_says_so(fake_java: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for call in (lambda: treebank(["a"]), lambda: meteor(["a"], [["a"]], np.ones((1, 1)))):
        with pytest.raises(JavaError, match=r"^needs Java: install a Java runtime \(17 or newer\)"):
            call()


def test_without_the_package_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    for call in (lambda: treebank(["a"]), lambda: meteor(["a"], [["a"]], np.ones((1, 1)))):
        with pytest.raises(JavaError, match=r"pip install 'hubinit\[e2e\]'"):
            call()


def test_the_tokenizer_gets_one_line_per_text(fake_java: Callable[[str], None]) -> None:
    fake_java("tr A-Z a-z")
    assert treebank(["One .\n two\u2028three \x85.", "", "Fo\ud800ur\r"]) == ["one two three", "", "fo?ur"]


def test_meteor_is_asked_once_per_set(fake_java: Callable[[str], None]) -> None:
    answer = "EVAL*) echo 9; echo ${line#EVAL ||| } | cut -c1-4;;"
    fake_java(f'while read line; do case "$line" in SCORE*) echo {COUNTS};; {answer} esac; done')
    found = meteor(["a", "b"], [["a"], ["b", "c"]], np.array([[1.0, 1.0], [2.0, 3.0]]))
    assert found["meteor"].tolist() == [10.0, 25.0]  # the summed length of the texts


@pytest.mark.parametrize(
    "script",
    [
        "echo 'Unable to locate a Java Runtime.' >&2; exit 1",
        "echo one; echo two; echo three",
        "exec sleep 60",
        "read line; echo Error: x",
    ],
)
def test_a_java_that_fails_is_one_sentence(
    script: str, fake_java: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_java(script)
    monkeypatch.setattr(captions, "LIMIT", 1)
    for call in (lambda: treebank(["a", "b"]), lambda: meteor(["a"], [["a"]], np.ones((1, 1)))):
        with pytest.raises(JavaError, match="failed"):
            call()


@needs_java
@pytest.mark.slow
def test_all_three_equal_the_caption_code() -> None:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    known = PTBTokenizer().tokenize({i: [{"caption": one} for one in several] for i, several in enumerate(REFERENCES)})
    texts = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(TEXTS)})
    words, references = treebank_all(TEXTS, REFERENCES)
    assert words == [texts[i][0] for i in range(4)]
    assert references == [known[i] for i in range(4)]
    score, alone = Meteor().compute_score(known, texts)
    found = meteor(words, references, np.vstack([np.ones((1, 4)), np.eye(4)]))["meteor"]
    assert found == pytest.approx([score, *alone], abs=1e-9)
    assert alone[2] == 1.0 and alone[3] == 0.0
    assert rouge_l(words, references) == pytest.approx(Rouge().compute_score(known, texts)[1].tolist(), abs=1e-9)
    assert cider(words, references) == pytest.approx(Cider().compute_score(known, texts)[1].tolist(), abs=1e-9)
    assert cider(["a"], [[""]]) == [0.0]
