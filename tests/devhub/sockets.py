"""Clients that send half of something."""

import socket
from typing import Any


def connect(hub: Any) -> socket.socket:
    """A connection to a running Hub that waits at most 20 seconds."""
    connection = socket.create_connection(hub.url.removeprefix("http://").split(":"))
    connection.settimeout(20)
    return connection


def half_sent(hub: Any, path: str, length: int, *, token: str = "", method: str = "POST") -> socket.socket:
    """Begins a request whose body never comes."""
    connection = connect(hub)
    address = hub.url.removeprefix("http://")
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    )
    credentials = f"Authorization: Bearer {token}\r\n" if token else ""
    connection.sendall(f"{head}{credentials}\r\n{{".encode())
    return connection


def status_of(connection: socket.socket) -> int:
    """The status of the answer."""
    return int(connection.recv(65536).split()[1])


def wait_for_end(connection: socket.socket) -> None:
    """Reads until the server has closed the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    connection.close()
