"""A judge may say anything: good answers are read, the rest is one sentence, and nothing of it costs what is there."""

import re
import time
from collections.abc import Iterator

import pytest

from hubinit.errors import HubinitError
from hubinit.scoring import chat_client
from hubinit.scoring.chat_client import Reply, ask_all, find_endpoint
from tests.scoring.judges import Answer, Served, Wanted, fails, running, says

KEY = "sk-very-secret-key-of-the-judge"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "pause", lambda state: 0.01)
    monkeypatch.setenv("HUBINIT_JUDGE_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def talk(served: Served, *texts: str) -> dict[int, Reply]:
    found: dict[int, Reply] = {}
    ask_all(
        find_endpoint("wise", served.url), [[{"role": "user", "content": text}] for text in texts], found.__setitem__
    )
    return found


def test_each_conversation_gets_its_answer_and_a_few_go_at_a_time() -> None:
    def behave(wanted: Wanted, number: int) -> Answer:
        time.sleep(0.02)
        return says(f"to {wanted['messages'][0]['content']}: [[7]]")

    with running(behave) as served:
        found = talk(served, *(f"question {i}" for i in range(12)))
    assert [found[i].text for i in range(12)] == [f"to question {i}: [[7]]" for i in range(12)]
    assert {reply.version for reply in found.values()} == {"wise-0613 fp_1"}
    assert 1 < served.most_at_once <= chat_client.PARALLEL
    assert set(served.keys) == {f"Bearer {KEY}"}
    assert served.asked[0] == {
        "path": "/v1/chat/completions",
        "model": "wise",
        "messages": served.asked[0]["messages"],
        "temperature": 0.0,
        "max_tokens": 2048,
    }


def test_without_a_key_none_is_sent_not_even_that_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUBINIT_JUDGE_KEY")
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    with running(lambda wanted, number: says("[[1]]")) as served:
        talk(served, "a")
    assert served.keys == [None]


def test_the_key_goes_to_no_other_address() -> None:
    with running(lambda wanted, number: says("[[1]]")) as other:
        moved = Answer(b"", 307, {"Location": f"{other.url}/chat/completions"})
        with running(lambda wanted, number: moved) as served, pytest.raises(HubinitError, match="status 307"):
            talk(served, "a")
        assert other.asked == []


# what is wrong for a while
PASSING: dict[str, Answer] = {
    "429": fails(429, "slow down", Retry_After="0"),
    "500": fails(500),
    "503 page": Answer(b"<html>busy</html>", 503),
    "garbage": Answer(b"\x00\xff\xfe what"),
    "html": Answer(b"<!doctype html><title>Sign in</title>"),
    "cut off": Answer(b'{"choices": [{"message": {"content": "[[5'),
    "cut connection": Answer(b'{"choices": ', 200, {"Content-Length": "1000"}),
    "empty": Answer(b""),
}


@pytest.mark.parametrize("first", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_asked_again(first: Answer) -> None:
    with running(lambda wanted, number: first if number < 2 else says("[[5]]")) as served:
        assert talk(served, "a")[0].text == "[[5]]"
    assert len(served.asked) == 3


@pytest.mark.parametrize("always", PASSING.values(), ids=PASSING)
def test_what_does_not_pass_is_one_sentence(always: Answer) -> None:
    with (
        running(lambda wanted, number: always) as served,
        pytest.raises(HubinitError, match=r"^The judge wise at http\S+ [^\n]+ run the same command again\.$"),
    ):
        talk(served, "a")
    assert len(served.asked) == chat_client.TRIES


# what no second try mends, and what is said then
LASTING: dict[str, tuple[Answer, str]] = {
    "no choices": (Answer(b'{"choices": []}'), "chat completions (choices: List should have at least 1 item"),
    "other schema": (Answer(b'{"output": "[[10]]"}'), "chat completions (choices: Field required)"),
    "list": (Answer(b"[1]"), "chat completions"),
    "text of another type": (Answer(b'{"choices": [{"message": {"content": [[10]]}}]}'), "choices.0.message.content"),
    "error in a 200": (Answer(b'{"error": {"message": "x"}}'), "choices: Field required"),
    "no such model": (fails(404, "no model `wise`\nhere"), "answered with status 404 (no model `wise` here)"),
    "wrong key": (fails(401, f"bad key {KEY}"), "does not accept the key (bad key [token]); set HUBINIT_JUDGE_KEY"),
    "request refused": (fails(400, "max_tokens is too large."), "status 400 (max_tokens is too large)"),
    "a long reason": (fails(400, "x" * 9999), "x" * 200 + ")."),
}


@pytest.mark.parametrize(("answer", "message"), LASTING.values(), ids=LASTING)
def test_what_cannot_pass_is_asked_once(answer: Answer, message: str) -> None:
    with (
        running(lambda wanted, number: answer) as served,
        pytest.raises(HubinitError, match=re.escape(message)) as told,
    ):
        talk(served, "a")
    assert len(served.asked) == 1
    assert KEY not in str(told.value)
    assert "\n" not in str(told.value)


def test_an_answer_without_an_end_is_not_read_to_it() -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1 << 20
            yield b" " * (1 << 20)

    with (
        running(lambda wanted, number: Answer(endless())) as served,
        pytest.raises(HubinitError, match="more than 1 MiB"),
    ):
        talk(served, "a")
    assert sent < 50 << 20


@pytest.mark.parametrize("part", [b"", b" "], ids=["silent", "trickling"])
def test_a_slow_judge_is_given_up(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "SECONDS", 0.3)
    monkeypatch.setattr(chat_client, "TRIES", 2)

    def slow() -> Iterator[bytes]:
        for _ in range(12):
            time.sleep(0.1)
            yield part

    start = time.monotonic()
    with running(lambda wanted, number: Answer(slow())) as served, pytest.raises(HubinitError, match=r"within 0\.3 s"):
        talk(served, "a")
    assert time.monotonic() - start < 3


def test_a_judge_that_is_down_is_one_sentence() -> None:
    with running(lambda wanted, number: says("")) as served:
        pass
    with pytest.raises(HubinitError, match=r"cannot be reached \(ConnectError\); check --judge-url"):
        talk(served, "a", "b", "c")


def test_what_was_answered_before_it_went_down_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, Reply] = {}
    with running(lambda wanted, number: says("[[3]]") if number < 5 else fails(400, "out of money")) as served:
        conversations = [[{"role": "user", "content": str(i)}] for i in range(40)]
        with pytest.raises(HubinitError, match="out of money"):
            ask_all(find_endpoint("wise", served.url), conversations, found.__setitem__)
    assert len(found) == 5
    assert len(served.asked) < 20, "the others were not asked any more"


def test_silence_is_an_answer_without_a_rating() -> None:
    with running(lambda wanted, number: says(None, model="m\x1b[31m\n", fingerprint=None)) as served:
        assert talk(served, "a")[0] == Reply(text="", version="m [31m")


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "host/v1", "http://", "http://me:hunter2@host/v1", "https://host/v1?key=1", "http://[::1/v1", ""],
)
def test_an_address_is_plain(url: str) -> None:
    with pytest.raises(HubinitError, match=r"--judge-url wants|is not an address") as told:
        find_endpoint("wise", url)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("key", ["a\nb", "schlüssel"])
def test_what_cannot_be_a_key_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBINIT_JUDGE_KEY", key)
    with pytest.raises(HubinitError, match="HUBINIT_JUDGE_KEY holds something that cannot be a key") as told:
        find_endpoint("wise", "http://127.0.0.1:1/v1")
    assert key not in str(told.value)


def test_the_key_is_in_no_text_of_the_endpoint() -> None:
    assert KEY not in repr(find_endpoint("wise", "http://127.0.0.1:1/v1"))
