"""What the servers of the tests share: they listen on the loopback, log every request, and fail when told to."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self
from urllib.parse import unquote


class Fault(NamedTuple):
    pattern: str
    how: str
    headers: dict[str, str]


class Loopback:
    """``with Loopback() as server``: serves at ``server.url`` until the block ends, by ``handler``.

    A handler finds it as ``self.server.owner``, and calls ``take`` first. ``requests``: all of them, in their order.
    """

    handler: type["Handler"]

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self._server.daemon_threads, self._server.block_on_close, self._server.owner = True, False, self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail_next(self, pattern: str, how: str | int = "cut", times: int = 1, **headers: str) -> None:
        """Lets the next requests in which the regular expression is found fail.

        ``how``: a status, ``"cut"`` (the connection breaks), or what the server has besides.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults += [Fault(pattern, str(how), named)] * times

    def take(self, request: str) -> Fault | None:
        """Logs the request; the fault that is to befall it, if any."""
        with self._lock:
            self.requests.append(request)
            fault = next((one for one in self.faults if re.search(one.pattern, unquote(request))), None)
            if fault:
                self.faults.remove(fault)
            return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *arguments: object) -> None:
        """Silent: ``Loopback.requests`` has the log."""

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
