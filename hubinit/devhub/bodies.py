"""The bodies of requests: of a type that no other site can send, in time, not too long, and JSON that can be written again."""

import json
import math
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from starlette.requests import Request

from .refusals import Refusal

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CLOSE = {"Connection": "close"}  # else the rest of the body is awaited, for as long as connections.py allows
_FORM = "application/x-www-form-urlencoded"


def check_content_type(request: Request) -> None:
    """Let pass what a web page of another site cannot send without the browser asking first.

    Raises:
        Refusal: (415) the body could come from an HTML form, or from a script that says nothing of its type.
    """
    length, kind = request.headers.get("content-length", "0"), request.headers.get("content-type", "").lower()
    empty = length == "0" and "transfer-encoding" not in request.headers
    only_reads = "/paths-info/" in request.url.path  # huggingface_hub asks for it with a form
    if request.method != "POST" or empty or only_reads:
        return
    if not kind.startswith("application/") or kind.startswith(_FORM):
        raise Refusal(415, "A POST needs the content type application/json, or that of the call.")


async def read_body(request: Request, limit: int, idle_seconds: float, whole_seconds: float) -> bytes:
    """The whole body.

    Raises:
        Refusal: the body is longer than the limit (413), nothing came for too long, or not all of it in time (408).
    """
    # The connection stays open: a client reads the answer only when it has sent all, which is read and dropped.
    too_long = Refusal(413, f"The body is longer than {limit} bytes.")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise too_long
    body = bytearray()
    try:
        with anyio.fail_after(whole_seconds):
            async for piece in arriving(request, idle_seconds):
                body += piece
                if len(body) > limit:
                    raise too_long
    except TimeoutError:
        raise Refusal(408, f"The body did not come within {whole_seconds:g} seconds.", headers=_CLOSE) from None
    return bytes(body)


async def arriving(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    """The pieces of a body as they come.

    Raises:
        Refusal: (408) nothing came for too long.
    """
    pieces = request.stream()
    while True:
        try:
            with anyio.fail_after(idle_seconds):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refusal(408, f"Nothing of the body came for {idle_seconds:g} seconds.", headers=_CLOSE) from None
        yield piece


def _refuse(name: str) -> Any:
    raise ValueError(f"JSON does not have the number {name[:20]}.")


def parse_json(raw: bytes | str, *, constant: Callable[[str], Any] = _refuse) -> Any:
    """What a JSON text says.

    Args:
        raw: The text, as UTF-8 when it is bytes.
        constant: What becomes of NaN, Infinity and a number too large for a float; they are refused when not given.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or holds half of a surrogate pair.
    """

    def number(digits: str) -> Any:
        return float(digits) if math.isfinite(float(digits)) else constant(digits)

    text = raw if isinstance(raw, str) else raw.decode()
    try:
        content = json.loads(text, parse_constant=constant, parse_float=number)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # a whole pair has become one character and passes
    except RecursionError as error:
        raise ValueError("The JSON is nested too deeply.") from error
    return content
