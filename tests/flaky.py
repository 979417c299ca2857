"""A proxy on loopback that answers some of the requests with an error, by the wish of a test."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from http_servers import QuietHandler, serving

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


class FlakyProxy:
    """Hands requests on to a server, and answers a share of them with 500 itself.

    Of those about half reach the server all the same: only the answer is lost.

    Attributes:
        uri: where it listens.
        handler: of the requests.
        share: of the requests, 0 to 1; may be changed at any time.
        refused: how many got the error.
    """

    def __init__(self, upstream: str, seed: int) -> None:
        parts = urlsplit(upstream)
        self.uri = ""
        self.share = 0.0
        self.refused = 0
        self._lock = threading.Lock()
        self._rng = random.Random(seed)
        proxy = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self._body()
                refuse, lost = proxy._draw()
                if refuse and not lost:
                    self._answer(500, [], b"planted error")
                    return
                connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
                headers = {name: text for name, text in self.headers.items() if name.lower() not in _HOP}
                try:
                    connection.request(self.command, self.path, body=body, headers=headers)
                    answer = connection.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True  # as the server itself would: no answer at all
                    return
                finally:
                    connection.close()
                if refuse:
                    self._answer(500, [], b"planted error: the answer is lost")
                    return
                kept = [(name, text) for name, text in answer.getheaders() if name.lower() not in _HOP]
                self._answer(answer.status, kept, content)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve

            def _body(self) -> bytes:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    content = b""
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        content += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return content
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                for name, text in headers:
                    if name.lower() not in ("content-length", "server", "date"):
                        self.send_header(name, text)
                length = {name.lower(): text for name, text in headers}.get("content-length")
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        self.handler = Handler

    def _draw(self) -> tuple[bool, bool]:
        with self._lock:
            refuse = self._rng.random() < self.share
            self.refused += refuse
            return refuse, self._rng.random() < 0.5


@contextlib.contextmanager
def flaky(upstream: str, seed: int = 0) -> Iterator[FlakyProxy]:
    """Run a proxy before a server."""
    proxy = FlakyProxy(upstream, seed)
    with serving(proxy.handler) as proxy.uri:
        yield proxy
