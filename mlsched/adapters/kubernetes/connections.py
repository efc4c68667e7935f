"""Requests to one API server from programs that block: the command line and the Python API.

Kept connections for requests, one of its own for each watch and each followed log. Uses
`http.client` alone, which imports in a tenth of the time of aiohttp. Knows nothing of what the
objects mean.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Self
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError, read_error
from mlsched.errors import ConfigError

CONNECT_S_MAX = 10.0
ANSWER_S_MAX = 35.0
"""For one answer: an API server gives up a read after 60 s, and most answers take 10 ms."""

BUSY_TRIES_MAX, BUSY_S_MAX = 5, 10.0
CLOCK_S_MIN = 2.0
CHUNK_BYTES = 1 << 18
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""A peer that is gone is noticed within a minute, however long a log is silent."""

Params = Mapping[str, str | int]
_BROKEN = (OSError, http.client.HTTPException, UnicodeError)
"""The last one of an address whose host or path cannot be sent."""


class Connections:
    """Asks one API server. Safe to share between threads.

    Args:
        access: Where it is and who asks.

    Raises:
        ConfigError: the address of the server or of its proxy is none.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._url = _read_address(access.server, "server", ("https", "http"))
        self._proxy = _read_address(access.route.proxy, "proxy", ("http",))
        self._kept: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._ahead_s = 0.0
        weakref.finalize(self, _close_all, self._kept)

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        found = self.access.ssl_context()
        return found if isinstance(found, ssl.SSLContext) else None

    def now_s(self) -> float:
        """Seconds since 1970 by the clock of the API server, as its last answer told it."""
        return time.time() + self._ahead_s

    def get(self, path: str, params: Params | None = None) -> bytes:
        """The body of one object or list.

        Raises:
            ApiError: refused.
            NoAnswerError: nothing came back.
        """
        return self._request("GET", _with(path, params))

    def create(self, path: str, body: bytes, params: Params | None = None) -> bytes:
        """Create an object whose name is in its body; the object as it was stored.

        Raises:
            ApiError, NoAnswerError: as `get`; after the latter it may exist.
        """
        return self._request("POST", _with(path, params), body, "application/json")

    def merge(self, path: str, body: bytes) -> bytes:
        """Merge a patch into an object; the object as it was stored.

        Raises:
            ApiError, NoAnswerError: as `get`.
        """
        return self._request("PATCH", path, body, "application/merge-patch+json")

    def follow(self, path: str, params: Params, silence_s_max: float | None = None) -> Flow:
        """Begin a request whose answer has no end: a watch, or a log.

        Args:
            silence_s_max: A connection on which nothing comes for so long is taken for dead.

        Raises:
            ApiError, NoAnswerError: as `get`.
        """
        line = self._connect()
        connected = line.sock
        try:
            line.request("GET", self._url.path + _with(path, params), headers=self._headers())
            answer = line.getresponse()
            _check(answer)
            connected.settimeout(silence_s_max)
        except _BROKEN as error:
            line.close()
            raise _no_answer("GET", path, error) from error
        except BaseException:
            line.close()
            raise
        return Flow(path, line, answer, connected)

    def _request(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        """One request; again where the server was too busy to look at it."""
        for _ in range(BUSY_TRIES_MAX):
            try:
                return self._send(method, path, body, kind)
            except ApiError as error:
                if error.code != 429:
                    raise
                time.sleep(min(error.retry_after_s or 1.0, BUSY_S_MAX))
        return self._send(method, path, body, kind)

    def _send(self, method: str, path: str, body: bytes | None, kind: str) -> bytes:
        """One request; once more where a kept connection was closed before it was answered."""
        with self._lock:
            kept = self._kept.pop() if self._kept else None
        if kept is not None:
            with contextlib.suppress(*_BROKEN):
                return self._ask(kept, method, path, body, kind)
        try:
            return self._ask(self._connect(), method, path, body, kind)
        except _BROKEN as error:
            raise _no_answer(method, path, error) from error

    def _ask(
        self,
        line: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        kind: str,
    ) -> bytes:
        headers = self._headers() | ({"Content-Type": kind} if kind else {})
        try:
            line.request(method, self._url.path + path, body, headers)
            answer = line.getresponse()
            found = answer.read()
        except BaseException:
            line.close()
            raise
        self._ahead_s = seconds_ahead(answer.headers.get("Date"), time.time())
        if line.sock is not None:
            with self._lock:
                self._kept.append(line)
        if answer.status >= 400:
            raise read_error(answer.status, found, answer.headers.get("Retry-After"))
        return found

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self.access.authorization()} if self.access.has_token else {}

    def _connect(self) -> http.client.HTTPConnection:
        line = _Line(self._url, self._proxy, self._tls, self.access.route.server_name)
        try:
            line.connect()
        except (*_BROKEN, ValueError) as error:
            line.close()
            raise _no_answer("connect to", self.access.server, error) from error
        line.sock.settimeout(ANSWER_S_MAX)
        line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            line.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return line


class _Line(http.client.HTTPConnection):
    """One connection, through a proxy where there is one.

    Args:
        server_name: What the server's certificate must name; empty for its host.
    """

    def __init__(
        self, server: SplitResult, proxy: SplitResult, tls: ssl.SSLContext | None, server_name: str
    ) -> None:
        host, port = server.hostname or "", server.port or (443 if tls else 80)
        through = (proxy.hostname, proxy.port or 80) if proxy.hostname else (host, port)
        super().__init__(*through, timeout=CONNECT_S_MAX)
        if proxy.hostname:
            self.set_tunnel(host, port, _proxy_headers(proxy))
        self._tls, self._server_name = tls, server_name or host

    def connect(self) -> None:
        """Also when http.client connects again by itself: never without TLS where that is used."""
        super().connect()
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _read_address(text: str, what: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of an address; of an empty text empty ones.

    Raises:
        ConfigError: it is none, or of another scheme.
    """
    try:
        found = urlsplit(text)
        is_right = not text or (found.scheme in schemes and bool(found.hostname))
        _ = found.port
    except ValueError:
        is_right = False
    if not is_right:
        shown = " or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)
        raise ConfigError(
            f"the kubeconfig's {what}: expected {shown}, found {text[:200]!r}.",
            "Run 'kubectl config view' to see where it is named.",
        )
    return found


class Flow:
    """An answer that goes on: read it in a ``with`` block, which releases the connection.

    `close` ends its reading and may be called from another thread.
    """

    def __init__(
        self,
        path: str,
        line: http.client.HTTPConnection,
        answer: http.client.HTTPResponse,
        connected: socket.socket,
    ) -> None:
        self._path = path
        self._line = line
        self._answer = answer
        self._socket = connected

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._line.close()
        self._socket.close()

    def chunks(self) -> Iterator[bytes]:
        """Bytes as they come, to the end of the answer.

        Raises:
            NoAnswerError: the connection broke, or was silent for too long.
        """
        try:
            while data := self._answer.read1(CHUNK_BYTES):
                yield data
        except (*_BROKEN, ValueError) as error:
            raise _no_answer("GET", self._path, error) from error

    def lines(self) -> Iterator[bytes]:
        """Lines of any length; a last one without a newline was cut and is dropped.

        Raises:
            NoAnswerError: as `chunks`.
        """
        rest = b""
        for chunk in self.chunks():
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            yield from lines


def seconds_ahead(date: str | None, now_s: float) -> float:
    """How far a clock is ahead of ours by the Date header of its answer, which has whole seconds.

    Zero where that is less than the network and the rounding may make.
    """
    try:
        ahead_s = parsedate_to_datetime(date or "").timestamp() - now_s
    except ValueError:
        return 0.0
    return ahead_s if abs(ahead_s) > CLOCK_S_MIN else 0.0


def _close_all(lines: list[http.client.HTTPConnection]) -> None:
    for line in lines:
        line.close()


def _with(path: str, params: Params | None) -> str:
    return f"{path}?{urlencode(params)}" if params else path


def _check(answer: http.client.HTTPResponse) -> None:
    if answer.status >= 400:
        raise read_error(answer.status, answer.read(), answer.headers.get("Retry-After"))


def _no_answer(method: str, path: str, error: Exception) -> NoAnswerError:
    return NoAnswerError(f"{method} {path}: {error or type(error).__name__}")
