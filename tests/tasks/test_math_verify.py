"""Symbolic equality, from any thread, whatever the output holds; skipped where the extra `math` is not installed."""

from pathlib import Path
from threading import Thread

import pytest

from hubinit.errors import HubinitError
from hubinit.scoring import rules, score_outputs
from hubinit.tasks import math_verify
from hubinit.tasks.math_verify import ask

DOCUMENT = {"problem": "?", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 1}
# output, reference, what is read, whether it is right
CASES = [
    ("so \\boxed{\\frac{1}{2}}", "$0.5$", "\\frac{1}{2}", True),
    ("it is $\\frac{2}{4}$.", "$\\frac{1}{2}$", "\\frac{2}{4}", True),
    ("\\boxed{x^2-1}", "$(x-1)(x+1)$", "x^2-1", True),
    ("\\boxed{\\frac{1}{3}}", "$\\frac{1}{2}$", "\\frac{1}{3}", False),
    ("The answer is 1/2", "$\\frac{1}{2}$", "1/2", True),
    ("#### 1,234", "1234", "1234", True),
    ("#### -5", "5", "-5", False),
    ("#### -5", "-5", "-5", True),
    ("50%", "50", "50", True),
    ("```\n\\boxed{7}\n```", "7", "7", True),
    ("first $6$,\n\nthen \\boxed{7}", "7", "7", True),
    ("答案是 \\boxed{７}", "7", "７", False),
    ("I do not know", "7", None, False),
    ("", "7", None, False),
    ("\ud800 \\boxed{7}", "7", "7", True),
]


@pytest.fixture
def installed() -> None:
    pytest.importorskip("math_verify", reason="the extra `math` is not installed")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("output", "reference", "read", "right"), CASES)
def test_equality_is_symbolic(output: str, reference: str, read: str | None, right: bool) -> None:
    assert ask(output) == read
    assert bool(ask(output, reference)) == right


@pytest.mark.usefixtures("installed")
def test_it_works_off_the_main_thread() -> None:
    found: list[object] = []
    thread = Thread(target=lambda: found.append(ask("\\boxed{\\frac12}", "0.5")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.usefixtures("installed")
def test_what_takes_too_long_is_not_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hasty = tmp_path / "worker.py"
    text = math_verify.WORKER.read_text()
    assert "SECONDS = 10 " in text
    hasty.write_text(text.replace("SECONDS = 10 ", "SECONDS = 1 "))
    monkeypatch.setattr(math_verify, "WORKER", hasty)
    monkeypatch.setattr(math_verify, "_idle", [])
    assert ask("\\boxed{9^{9^{9^{9}}}}", "5") is None
    assert ask("\\boxed{5}", "5") is True  # by another process


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("output", ["\\frac{1}{2}$" * 800_000, "$__import__('os').abort()$", "9" * 10_000_000])
def test_hostile_outputs_cost_little_and_are_wrong(output: str) -> None:
    assert not ask(output, "5")


@pytest.mark.usefixtures("installed")
def test_a_process_that_was_ended_is_replaced() -> None:
    assert ask("\\boxed{5}", "5")
    (worker,) = math_verify._idle
    worker.kill()
    worker.wait()
    assert ask("\\boxed{5}", "5")


@pytest.mark.usefixtures("installed")
def test_the_whole_output_is_compared() -> None:
    lines = [{"output": text, "document": DOCUMENT} for text in ("\\boxed{0.5}", "\\boxed{2}", "no")]
    (score,) = (score for score in score_outputs("math-500", lines).scores if score.metric == "math-verify")
    assert (score.value, score.invalid_rate, score.n) == (pytest.approx(1 / 3), pytest.approx(1 / 3), 3)


def test_a_package_that_is_broken_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "worker.py"
    broken.write_text("raise ImportError")
    monkeypatch.setattr(math_verify, "WORKER", broken)
    monkeypatch.setattr(math_verify, "_idle", [])
    with pytest.raises(HubinitError, match="math-verify cannot be loaded; run pip install"):
        ask("5")


def test_without_the_package_the_rule_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.MODULES, "math", "no_such_package")
    rules.can_use.cache_clear()
    with pytest.warns(UserWarning, match=r'math-verify is left out: pip install "hubinit\[math\]"') as caught:
        scored = score_outputs("math-500", [{"output": "\\boxed{\\frac12}", "document": DOCUMENT}] * 2)
    rules.can_use.cache_clear()
    assert len(caught) == 1
    assert [score.metric for score in scored.scores][:2] == ["hendrycks", "milora"]
    assert "math-verify" not in scored.items[0].values
