"""Asks a model behind an OpenAI-compatible address, several conversations at a time, and trusts nothing that comes back."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from threading import Event
from typing import Annotated, Any

import httpx2
from pydantic import BaseModel, Field, ValidationError
from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_attempt, stop_when_event_set

from hubinit.errors import HubinitError
from hubinit.records import Record
from hubinit.remote import JUDGE_KEYS, TRIES, is_transient, pause, redact
from hubinit.text import one_line

Messages = Sequence[Mapping[str, str]]  # of `role` and `content`
TEMPERATURE = 0.0  # as FastChat asks its judges
MAX_TOKENS = 2048  # as FastChat asks its judges
PARALLEL = 4  # requests at a time
SECONDS = 120.0  # for one answer, whatever trickles in meanwhile
LARGEST = 1 << 20  # bytes of an answer
SHOWN = 200  # characters of what the other side says about itself


class Reply(Record):
    """What a model answered, and which version of it says so itself."""

    text: str
    version: str = ""


@dataclass(frozen=True)
class Endpoint:
    """A model behind an address."""

    url: str
    model: str
    key: str = field(default="", repr=False)


class Refused(Exception):
    """An HTTP status that is not 200; `response` has it."""

    def __init__(self, response: httpx2.Response, said: str) -> None:
        super().__init__(said)
        self.response = response


class TooLarge(Exception):
    """An answer of more bytes than anything that a model says."""


class _Message(BaseModel):
    content: str | None = None  # null where the model would not say anything


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    model: str | None = None
    system_fingerprint: str | None = None


def find_endpoint(model: str, url: str) -> Endpoint:
    """The endpoint at an address, with the key from the environment.

    Raises:
        HubinitError: the address or the key cannot be used; the key is not shown.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise HubinitError("--judge-url is not an address; give one such as http://127.0.0.1:8000/v1.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        raise HubinitError(
            "--judge-url wants a plain address such as http://127.0.0.1:8000/v1, without user, password or query; "
            f"put a key into {JUDGE_KEYS[0]}."
        )
    name = next((name for name in JUDGE_KEYS if os.environ.get(name)), "")
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise HubinitError(f"{name} holds something that cannot be a key; set it again.")
    return Endpoint(url.rstrip("/"), model, key)


def ask_all(endpoint: Endpoint, conversations: Sequence[Messages], keep: Callable[[int, Reply], None]) -> None:
    """Asks for the answer to each conversation, a few at a time; the first that fails for good ends it.

    Args:
        endpoint: whom.
        conversations: each ends with what is to be answered.
        keep: called with the number of a conversation and its answer as soon as it is there.

    Raises:
        HubinitError: it cannot be reached, refuses, or answers in another form.
    """
    stop = Event()
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})
    with httpx2.Client(headers=headers, timeout=SECONDS) as client, ThreadPoolExecutor(PARALLEL) as pool:
        futures = {
            pool.submit(ask_patiently, client, endpoint, messages, stop): number
            for number, messages in enumerate(conversations)
        }
        try:
            for future in as_completed(futures):
                keep(futures[future], future.result())
                del futures[future]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            for future, number in futures.items():  # answers that came while the first failure was noticed
                if not future.cancelled() and future.exception() is None:
                    keep(number, future.result())
            raise


def ask_patiently(client: httpx2.Client, endpoint: Endpoint, messages: Messages, stop: Event) -> Reply:
    """One answer; asks again, as late as the other side wishes, for a reason that may pass.

    Raises:
        HubinitError: it failed for good, or kept failing.
    """
    retrying = Retrying(
        retry=retry_if_exception(lambda error: is_transient(error) or is_garbled(error)),
        wait=pause,
        stop=stop_after_attempt(TRIES) | stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        reraise=True,
    )
    try:
        return retrying(ask, client, endpoint, messages)
    except (httpx2.HTTPError, Refused, TooLarge, ValidationError) as error:
        raise HubinitError(
            redact(
                f"The judge {one_line(endpoint.model)} at {endpoint.url} {explain(error)}. "
                "What it has judged is kept; run the same command again."
            )
        ) from error


def ask(client: httpx2.Client, endpoint: Endpoint, messages: Messages) -> Reply:
    """One request.

    Raises:
        httpx2.HTTPError: no connection, or too slow.
        Refused: another status than 200.
        TooLarge: more than `LARGEST` bytes.
        ValidationError: an answer in another form.
    """
    wanted = {
        "model": endpoint.model,
        "messages": [dict(message) for message in messages],
        "temperature": TEMPERATURE,
        "max_tokens": MAX_TOKENS,
    }
    with client.stream("POST", f"{endpoint.url}/chat/completions", json=wanted) as response:
        body = read_body(response)
    if response.status_code != 200:
        raise Refused(response, what_it_said(body))
    found = _Completion.model_validate_json(body)
    version = " ".join(filter(None, (found.model, found.system_fingerprint)))
    return Reply(text=found.choices[0].message.content or "", version=redact(one_line(version))[:SHOWN])


def read_body(response: httpx2.Response) -> bytes:
    """The body, as long as it is neither too large nor too slow as a whole."""
    end = time.monotonic() + SECONDS
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > LARGEST:
            raise TooLarge
        if time.monotonic() > end:
            raise httpx2.ReadTimeout("the answer trickles in")
    return bytes(body)


def is_garbled(error: BaseException) -> bool:
    """Whether an answer is not even JSON: an error page of something in between, or one that was cut off."""
    return isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid"


def what_it_said(body: bytes) -> str:
    """The reason in the body of an error, on one line."""
    text = body[: 4 * SHOWN].decode("utf-8", "replace")
    try:
        found: Any = _Failure.model_validate_json(body)
        text = found.error if isinstance(found.error, str) else found.error.message
    except ValidationError:
        pass
    return redact(one_line(text))[:SHOWN].rstrip(".")


class _Reason(BaseModel):
    message: str


class _Failure(BaseModel):
    error: str | _Reason


def explain(error: Exception) -> str:
    """What went wrong, as the end of a sentence that begins with the judge."""
    if isinstance(error, Refused):
        status = error.response.status_code
        said = f" ({error})" if str(error) else ""
        if status in (401, 403):
            return f"does not accept the key{said}; set {JUDGE_KEYS[0]}"
        return f"answered with status {status}{said}"
    if isinstance(error, TooLarge):
        return f"sent an answer of more than {LARGEST >> 20} MiB"
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        return f"does not answer in the form of OpenAI's chat completions ({place + ': ' if place else ''}{problem['msg']})"
    if isinstance(error, httpx2.TimeoutException):
        return f"did not answer within {SECONDS:g} s"
    return f"cannot be reached ({type(error).__name__}); check --judge-url"
