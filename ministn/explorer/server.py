"""The page's own small server: for this machine, for this page alone, with nothing from elsewhere.

Whatever else runs in a browser may send requests to a port of this machine. So a question is answered only if all of
these hold; each is refused with a status and, as JSON, one line that says why:

* it names this server as its host (another page whose name was made to point here does not);
* it comes from this server's page (``Origin``), with the token that only this page was given;
* it is JSON of at most `LARGEST_BODY` bytes.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import secrets
import socket
import sys
import threading
import traceback
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn

from ministn.explorer.look import Explorer, RequestError

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
LARGEST_BODY = 16 * 1024  # bytes; a question has 4,000
LINGER = 64  # times so many bytes of a refused request are read, and thrown away
SECONDS = 10.0  # of silence, after which a connection is closed
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Hands out the page and answers its questions.

    Parameters
    ----------
    explorer : Explorer
    port : int
        Of 127.0.0.1; 0 takes a free one.
    """

    request_queue_size = 64

    def __init__(self, explorer: Explorer, port: int = 0) -> None:
        # One thread for all questions: kernels of two at once would share Numba's threads, which not every threading
        # layer allows.
        self.worker = ThreadPoolExecutor(1)
        super().__init__(("127.0.0.1", port), Handler)
        self.token = secrets.token_urlsafe(32)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.answers = {"/start": lambda request: explorer.start(), "/look": explorer.look}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def run(self, open_browser: bool = True) -> None:
        """Serve until Ctrl-C."""
        print(f"{self.address}  (Ctrl-C ends it)", flush=True)
        if open_browser:  # from another thread: a browser in the terminal returns only when it is left
            threading.Thread(target=webbrowser.open, args=(self.address,), daemon=True).start()
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            print()
        finally:
            self.server_close()

    def server_close(self) -> None:
        super().server_close()
        self.worker.shutdown(cancel_futures=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the page was closed before it had its answer
            super().handle_error(request, client_address)


class RefusedError(Exception):
    """A request that is not answered: the status, and why."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"  # one connection for many questions
    server_version, sys_version = "ministn", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        try:
            self._check_host()
            if self.path not in FILES:
                raise RefusedError(404, f"no such page: expected one of {', '.join(FILES)}")
        except RefusedError as error:
            self._refuse(*error.args)
            return
        name, kind = FILES[self.path]
        content = importlib.resources.files(__package__).joinpath(name).read_bytes()
        self._send(200, kind, content.replace(b"$TOKEN", self.server.token.encode()))

    def do_POST(self) -> None:
        try:
            answer = self._answer()
        except RefusedError as error:
            self._refuse(*error.args)
        else:
            self._send(200, "application/json", json.dumps(answer, allow_nan=False).encode())

    def _answer(self) -> dict[str, Any]:
        """The answer to a question, if it is one of the page's own."""
        self._check_host()
        origin = self.headers.get("Origin")
        if origin != f"http://{self.headers['Host']}":
            raise RefusedError(403, f"expected the page's own origin http://{self.headers['Host']}, got {origin}")
        token = self.headers.get("X-Ministn-Token", "")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise RefusedError(403, "expected the token of this start in X-Ministn-Token: reload the page")
        answer = self.server.answers.get(self.path)
        if answer is None:
            raise RefusedError(404, f"expected a question to one of {', '.join(self.server.answers)}")
        request = self._read()
        try:
            return self.server.worker.submit(answer, request).result()
        except RequestError as error:
            raise RefusedError(400, str(error)) from None
        except Exception as error:  # a fault of ours: all of it in the terminal, a line of it on the page
            traceback.print_exc()
            raise RefusedError(500, f"{type(error).__name__}: {error}") from None

    def _check_host(self) -> None:
        host = self.headers.get("Host")
        if host not in self.server.hosts:
            raise RefusedError(403, f"expected the host {' or '.join(sorted(self.server.hosts))}, got {host}")

    def _read(self) -> dict[str, Any]:
        """The body, a JSON object."""
        kind, length = self.headers.get_content_type(), self.headers.get("Content-Length", "none")
        if kind != "application/json":
            raise RefusedError(415, f"expected the content type application/json, got {kind}")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise RefusedError(411, f"expected a Content-Length alone, got {length}")
        if len(length) > 9 or int(length) > LARGEST_BODY:
            raise RefusedError(413, f"expected at most {LARGEST_BODY} bytes, got {length}")

        def refuse(name: str) -> NoReturn:
            raise RefusedError(400, f"expected finite numbers, got {name}")

        try:
            request = json.loads(self.rfile.read(int(length)), parse_constant=refuse)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, f"expected JSON, got what is none: {error}") from None
        if not isinstance(request, dict):
            raise RefusedError(400, f"expected a JSON object, got {type(request).__name__}")
        return request

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True
        self._send(status, "application/json", json.dumps({"error": why}).encode())
        # To close while the other side still sends would reset the connection, and the answer might be lost with it.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            for _ in range(LINGER):
                if not self.rfile.read1(LARGEST_BODY):
                    break

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each step of a slider helps nobody."""
