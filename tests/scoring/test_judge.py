"""Who judges, and that nothing is asked twice."""

from pathlib import Path

import pytest

from hubinit.errors import HubinitError
from hubinit.scoring import chat_client, judge
from hubinit.scoring.chat_client import Messages, Reply
from hubinit.scoring.judge import find_judge, judge_all
from tests.scoring.judges import fails, running, says
from tests.texts import language_model, save_model, tokenizer

ASKED: list[Messages] = [[{"role": "user", "content": text}] for text in ("a", "b", "a", "c")]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUBINIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HUBINIT_JUDGE_URL", raising=False)
    monkeypatch.setattr(chat_client, "pause", lambda state: 0.01)
    return tmp_path / "home"


def test_a_rerun_asks_nothing_and_a_judge_s_words_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(lambda wanted, number: says(f"on {wanted['messages'][0]['content']}")) as served:
        monkeypatch.setenv("HUBINIT_JUDGE_URL", served.url + "/")
        done: list[int] = []
        first = judge_all(find_judge("wise"), ASKED, done.append)
        assert [reply.text for reply in first] == ["on a", "on b", "on a", "on c"]
        assert len(served.asked) == 3, "equal questions are asked once"
        assert (done[0], done[-1]) == (0, 4)
        assert judge_all(find_judge("wise"), ASKED) == first
        assert len(served.asked) == 3
        judge_all(find_judge("wiser"), ASKED[:1])
        assert len(served.asked) == 4
    with running(lambda wanted, number: says("from elsewhere")) as other:
        monkeypatch.setenv("HUBINIT_JUDGE_URL", other.url)
        assert judge_all(find_judge("wise"), ASKED[:1])[0].text == "from elsewhere"


def test_a_judge_that_goes_down_is_asked_for_the_rest_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "PARALLEL", 1)
    down = True
    with running(lambda wanted, number: fails(400) if down and number >= 1 else says("[[4]]")) as served:
        monkeypatch.setenv("HUBINIT_JUDGE_URL", served.url)
        with pytest.raises(HubinitError, match="What it has judged is kept"):
            judge_all(find_judge("wise"), ASKED)
        down = False
        before = len(served.asked)
        assert [reply.text for reply in judge_all(find_judge("wise"), ASKED)] == ["[[4]]"] * 4
        assert len(served.asked) == before + 2


def test_a_damaged_judgement_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    with running(lambda wanted, number: says("[[4]]")) as served:
        monkeypatch.setenv("HUBINIT_JUDGE_URL", served.url)
        judge_all(find_judge("wise"), ASKED[:1])
        (path,) = (home / "judgements").iterdir()
        path.write_text('{"text": ')
        assert judge_all(find_judge("wise"), ASKED[:1])[0].text == "[[4]]"
        assert len(served.asked) == 2


def test_a_judgement_that_cannot_be_kept_is_one_sentence(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    home.mkdir()
    (home / "judgements").write_text("a file")
    with running(lambda wanted, number: says("[[4]]")) as served:
        monkeypatch.setenv("HUBINIT_JUDGE_URL", served.url)
        with pytest.raises(HubinitError, match=r"cannot be kept in .*judgements"):
            judge_all(find_judge("wise"), ASKED)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "name a model with --judge-model"),
        ("", "name a model with --judge-model"),
        ("gpt-4", "Where is the judge 'gpt-4'. Give --judge-url"),
        ("local:nothing", "Unknown model 'nothing'"),
    ],
)
def test_a_judge_that_is_not_found_is_one_sentence(name: str | None, message: str) -> None:
    with pytest.raises(HubinitError, match=message):
        find_judge(name)


def test_a_model_of_this_machine_judges_greedily_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path / "model")
    monkeypatch.setattr(judge, "MAX_TOKENS", 4)
    with pytest.raises(HubinitError, match="has no chat template"):
        judge_all(find_judge(f"local:{folder}"), ASKED)
    spoken = tokenizer()
    spoken.chat_template = TEMPLATE
    spoken.save_pretrained(folder)
    chosen = find_judge(f"local:{folder}")
    replies = judge_all(chosen, ASKED)
    ids = spoken("user: b\nassistant:", return_tensors="pt")["input_ids"]
    tokens = language_model().generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=1)[0, ids.shape[1] :]
    assert replies[1] == Reply(text=spoken.decode(tokens, skip_special_tokens=True), version=f"{folder}@{chosen.place}")
    monkeypatch.setattr(judge, "load", lambda spec: pytest.fail("the judgements are there"))
    assert judge_all(find_judge(f"local:{folder}"), ASKED) == replies
