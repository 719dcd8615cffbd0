"""A judge on loopback that behaves as it is told: well, or as badly as anything that calls itself OpenAI-compatible."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Wanted = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    body: bytes | Iterator[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def says(text: str | None, *, model: str = "wise-0613", fingerprint: str | None = "fp_1") -> Answer:
    """A good answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    body = {"id": "1", "choices": [{"index": 0, "message": message}], "model": model, "usage": {"total_tokens": 3}}
    return Answer(json.dumps(body | ({"system_fingerprint": fingerprint} if fingerprint else {})).encode())


def fails(status: int, said: str = "no", **headers: str) -> Answer:
    """An error as OpenAI words it."""
    return Answer(json.dumps({"error": {"message": said}}).encode(), status, headers)


class Served:
    """What was asked, and how it is answered."""

    def __init__(self, behave: Callable[[Wanted, int], Answer]) -> None:
        self.behave = behave
        self.asked: list[Wanted] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def running(behave: Callable[[Wanted, int], Answer]) -> Iterator[Served]:
    """A judge; `behave` gets each request and how many there were before it."""
    served = Served(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with served.lock:
                number = len(served.asked)
                served.asked.append(wanted | {"path": self.path})
                served.keys.append(self.headers["Authorization"])
                served.at_once += 1
                served.most_at_once = max(served.most_at_once, served.at_once)
            try:
                answer = served.behave(wanted, number)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                for part in [answer.body] if isinstance(answer.body, bytes) else answer.body:
                    self.wfile.write(part)
            except (BrokenPipeError, ConnectionResetError):  # who asked had enough
                pass
            finally:
                with served.lock:
                    served.at_once -= 1

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
