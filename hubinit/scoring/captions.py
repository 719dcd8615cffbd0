"""METEOR 1.5, ROUGE-L and CIDEr-D on Penn Treebank tokens, by the code of the MS-COCO captions that the E2E scripts use.

It comes as the package pycocoevalcap: two Java programs and two Python files. There is not a substitute for the former: other
METEORs are other metrics. Java runs without a shell, with 2 GB at most, and is ended after `LIMIT` seconds.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer

import numpy as np

from hubinit.errors import HubinitError, first_line
from hubinit.scoring.text import Values

LIMIT = 900  # seconds for all texts together
NEEDED = "needs Java: install a Java runtime (17 or newer) with `java` on the PATH, and score again"
CHUNKS = 20  # place in METEOR's counts
SEPARATOR = "|||"  # of METEOR's own lines


class JavaError(HubinitError):
    """A Java program is missing or failed; the message fits after the name of a metric."""


def treebank(texts: Sequence[str]) -> list[str]:
    """The tokens of each text, in lower case, separated by spaces and without punctuation.

    Raises:
        JavaError: Java or the package is missing, or the tokenizer failed.
    """
    _need_package()
    from pycocoevalcap.tokenizer import ptbtokenizer as package

    jar = Path(package.__file__).with_name(package.STANFORD_CORENLP_3_4_1_JAR)
    command = java("-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    lines = "".join(f"{' '.join(text.split())}\n" for text in texts)
    try:
        done = subprocess.run(command, input=lines.encode(errors="replace"), capture_output=True, timeout=LIMIT)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaError(f"the Treebank tokenizer failed: {first_line(error)}") from error
    tokenised = done.stdout.decode(errors="replace").split("\n")[:-1]
    if done.returncode or len(tokenised) != len(texts):
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise JavaError(f"the Treebank tokenizer failed ({said[-1]}): {NEEDED.removeprefix('needs Java: ')}")
    return [" ".join(word for word in line.split() if word not in package.PUNCTUATIONS) for line in tokenised]


def meteor(texts: Sequence[str], references: Sequence[Sequence[str]], weights: Values) -> dict[str, Values]:
    """METEOR 1.5 for English, normalised, of each weighted set (see `hubinit.scoring.text`): from summed counts, not a mean.

    Args:
        texts: n texts as `treebank` gives them.
        references: of each text, likewise.
        weights: b × n.

    Raises:
        JavaError: Java or the package is missing, or the program failed.
    """
    with meteor_program() as program:
        counts = np.array(
            [ask(program, ["SCORE", *several, text]) for text, several in zip(texts, references, strict=True)]
        )  # n × 23: lengths, function words, four stages of matches (text and reference in turn), chunks, matched words
        exact = (counts[:, :2] == np.stack([counts[:, 4:20:2].sum(1), counts[:, 5:20:2].sum(1)], 1)).all(1)
        counts[exact & (counts[:, CHUNKS] == 1), CHUNKS] = (
            0  # as METEOR does when it sums up: a perfect text has no breaks
        )
        sets = [" ".join(map(repr, row)) for row in (weights @ counts).tolist()]
        return {"meteor": np.array([ask(program, ["EVAL", one], answers=2)[0] for one in sets])}


@contextmanager
def meteor_program() -> Iterator["subprocess.Popen[str]"]:
    """METEOR, waiting for lines on its standard input; it ends with the context, or after `LIMIT` seconds."""
    _need_package()
    from pycocoevalcap.meteor import meteor as package

    jar = Path(package.__file__).with_name(package.METEOR_JAR)
    command = java("-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm")
    pipe = subprocess.PIPE
    program = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8")  # noqa: S603
    watch = Timer(LIMIT, program.kill)
    watch.start()
    try:
        yield program
    finally:
        watch.cancel()
        program.kill()
        with suppress(OSError):  # what it did not read any more
            program.communicate()


def ask(program: "subprocess.Popen[str]", fields: Sequence[str], answers: int = 1) -> list[float]:
    """Sends METEOR one line and gives the numbers of the last of its answers.

    Raises:
        JavaError: there is not one.
    """
    assert program.stdin is not None and program.stdout is not None
    try:
        program.stdin.write(f" {SEPARATOR} ".join(fields) + "\n")
        program.stdin.flush()
        answer = [program.stdout.readline() for _ in range(answers)][-1].strip()
    except OSError as error:
        raise JavaError("the program failed or took too long") from error
    try:
        numbers = [float(one) for one in answer.split()]
    except ValueError:
        numbers = []
    if not numbers:
        raise JavaError(f"the program failed or took too long: {answer or 'no answer'}")
    return numbers


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each tokenised text: F with beta 1.2 of the best precision and the best recall over its references."""
    from pycocoevalcap.rouge.rouge import Rouge

    return [float(Rouge().calc_score([text], several)) for text, several in zip(texts, references, strict=True)]


def cider(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each tokenised text, times 10; the rarity of an n-gram is counted in the references of this set."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    if not any(reference for several in references for reference in several):
        return [0.0] * len(texts)
    scorer = CiderScorer(n=4, sigma=6.0)
    for text, several in zip(texts, references, strict=True):
        scorer += (text, several)
    return [float(value) for value in scorer.compute_score()[1]]


def java(*arguments: str) -> list[str]:
    """The command line of a Java program.

    Raises:
        JavaError: there is not a Java.
    """
    program = shutil.which("java")
    if program is None:
        raise JavaError(NEEDED)
    return [program, "-Xmx2G", "-Dfile.encoding=UTF-8", *arguments]


def _need_package() -> None:
    """Refuses to go on without the optional package.

    Raises:
        JavaError: it is not installed.
    """
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise JavaError("needs the package pycocoevalcap: pip install 'hubinit[e2e]'") from error
