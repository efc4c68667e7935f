"""The client of the local service: one request a connection over a Unix socket.

Turns an operation and its arguments into a result or an error of `mlsched.errors`, and starts the
service when nobody answers. The command line and the Python API are its only callers. It blocks;
it never prints, and it knows nothing of what the operations mean.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from mlsched.api.closing import Closing
from mlsched.api.interfaces import LocalOutputs
from mlsched.api.starting import start_and_connect
from mlsched.config import Paths
from mlsched.errors import ConfigError, MlschedError, SpecError, UnreachableError, error_from_dict

PROTOCOL_VERSION = 1
DEADLINE_S = 60.0
"""For one answer: the slowest operation reads GPUs, and a driver that hangs takes 10 s."""

RETRIES_MAX = 3
"""Of a request whose connection broke: the service was killed or stopped while answering."""

_CHUNK_BYTES = 1 << 16
_KEYED = frozenset({"submit", "retry"})
"""Operations that make something: their key makes a second sending find what the first made."""

_SAFE_TO_REPEAT = frozenset(
    {"ping", "preview", "list", "show", "why", "cancel", "gpus", "node", "report"}
    | {"schedule_apply", "schedule_list", "schedule_tick", "stop"}
)
"""Operations that change nothing, or whose second time changes nothing more."""


class TornReplyError(UnreachableError):
    """The connection ended before the answer did."""


def connect(paths: Paths | None = None, *, autostart: bool = True) -> Client:
    """A client of the service of these paths, by default of the current user.

    With ``autostart`` the service listens when this returns. Each request opens a connection of
    its own, so that a client outlives the service and may be kept.

    Raises:
        UnreachableError: the service cannot be started.
        ConfigError: the socket, the state directory or config.toml is not as it must be.
    """
    client = Client(paths or Paths.from_environment(), autostart=autostart)
    if autostart:
        client.ensure_running()
    return client


class Client:
    """Asks the service. Safe to share between threads: it holds no connection.

    Args:
        paths: Where the socket is, and where a service would keep its things.
        autostart: Start the service when nobody answers.
        deadline_s: Seconds to wait for one answer.
    """

    def __init__(
        self, paths: Paths, *, autostart: bool = True, deadline_s: float = DEADLINE_S
    ) -> None:
        self.paths = paths
        self.context = "local"
        self.autostart = autostart
        self.deadline_s = deadline_s

    def call(self, op: str, /, **args: Any) -> Any:
        """The result of an operation.

        A request whose connection breaks is sent again when that is safe: reads, and submits,
        which get an idempotency key of their own where the caller gave none.

        Raises:
            MlschedError: what the service answered.
            UnreachableError: no service, and none could be started; or it did not answer in time.
            ConfigError: the service has another version, or belongs to somebody else.
        """
        if op in _KEYED and not args.get("idempotency_key"):
            args["idempotency_key"] = f"client-{os.urandom(16).hex()}"
        safe = op in _SAFE_TO_REPEAT or op in _KEYED
        for left in range(RETRIES_MAX if safe else 0, -1, -1):
            try:
                with self.stream(op, **args) as stream:
                    for _ in stream:
                        pass
                    return stream.result
            except TornReplyError:
                if left == 0:
                    raise
        raise AssertionError("unreachable")

    def stream(self, op: str, /, **args: Any) -> Stream:
        """Send an operation that answers with events; the caller closes the stream.

        Raises:
            UnreachableError, ConfigError: as `call`.
            SpecError: an argument is no text.
        """
        request = _encode({"op": op, "args": args, "version": PROTOCOL_VERSION})
        connection = self._open()
        try:
            connection.sendall(request + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the service may have answered already: too large, or another version
        except TimeoutError as error:
            connection.close()
            raise _too_slow(self.deadline_s) from error
        return Stream(connection, self.deadline_s)

    def open_outputs(self) -> LocalOutputs:
        """Where the output of jobs is."""
        return LocalOutputs(self.paths.jobs_dir)

    def is_running(self) -> bool:
        """Whether a service answers now; never starts one."""
        connection = _try_to_connect(self.paths, self.deadline_s)
        if connection is None:
            return False
        connection.close()
        return True

    def ensure_running(self) -> None:
        """Start the service unless it runs.

        Raises:
            UnreachableError, ConfigError: as `connect`.
        """
        self._open().close()

    def _open(self) -> socket.socket:
        connection = _try_to_connect(self.paths, self.deadline_s)
        if connection is not None:
            return connection
        if not self.autostart:
            raise UnreachableError(
                "the service is not running.", "It starts with the first command that needs it."
            )
        return start_and_connect(self.paths, lambda: _try_to_connect(self.paths, self.deadline_s))


class Stream(Closing):
    """The answer to one request: events, then a result.

    Iterating gives the events; afterwards ``result`` holds the result.

    Raises (while it is read):
        MlschedError: the service answered with an error.
        TornReplyError: the connection ended too early.
    """

    def __init__(self, connection: socket.socket, deadline_s: float = DEADLINE_S) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._has_begun = False
        self.is_over = False
        self.result: Any = None

    def close(self) -> None:
        """Leave; the service notices and stops sending."""
        self._connection.close()

    def __iter__(self) -> Iterator[Any]:
        while not self.is_over:
            yield from self.poll(None)

    def poll(self, timeout_s: float | None) -> list[Any]:
        """Events that arrive within ``timeout_s`` seconds; perhaps none.

        Args:
            timeout_s: 0 looks only; None waits for the next line, however long a stream is
                silent, but not longer than the deadline for the first.
        """
        if not self._lines and not self.is_over:
            self._receive(timeout_s)
        lines, self._lines = self._lines, []
        return [event for event in map(self._read_line, lines) if event is not _NOTHING]

    def _receive(self, timeout_s: float | None) -> None:
        wait_s = self._deadline_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + wait_s
        while not self._lines:
            left_s: float | None = max(0.0, deadline - time.monotonic())
            if timeout_s is None and self._has_begun:
                left_s = None
            if not _is_readable(self._connection, left_s):
                if timeout_s is None:
                    raise _too_slow(self._deadline_s)
                return
            try:
                chunk = self._connection.recv(_CHUNK_BYTES)
            except (ConnectionError, TimeoutError):
                chunk = b""
            if not chunk:
                raise TornReplyError(
                    "the service ended before its answer did.", "Try again: it starts by itself."
                )
            self._feed(chunk)

    def _feed(self, chunk: bytes) -> None:
        first = len(self._buffer)
        self._buffer += chunk
        if b"\n" not in chunk:
            return
        end = self._buffer.rindex(b"\n", first) + 1
        self._has_begun = True
        self._lines.extend(bytes(self._buffer[: end - 1]).split(b"\n"))
        del self._buffer[:end]

    def _read_line(self, line: bytes) -> Any:
        try:
            reply = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise UnreachableError(f"the service answered what is no JSON: {error}.") from error
        if not isinstance(reply, dict) or not reply.keys() & {"event", "ok", "error"}:
            raise UnreachableError("the service answered something else than it should.")
        if "event" in reply:
            return reply["event"]
        self.is_over = True
        if "error" in reply:
            raise _rebuild_error(reply["error"])
        self.result = reply["ok"]
        return _NOTHING


_NOTHING = object()


def _encode(request: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError as error:
        raise SpecError(f"{str(error.object)[:60]!r} is no UTF-8 text.") from error


def _is_readable(connection: socket.socket, timeout_s: float | None) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else int(timeout_s * 1000)))


def _rebuild_error(found: Any) -> MlschedError:
    if not isinstance(found, dict):
        return MlschedError("the service answered with an error that says nothing.")
    return error_from_dict({str(key): str(value) for key, value in found.items()})


def _too_slow(deadline_s: float) -> UnreachableError:
    return UnreachableError(
        f"the service did not answer within {deadline_s:g} s.",
        "Run 'mlsched doctor' to see what is wrong.",
    )


def _try_to_connect(paths: Paths, deadline_s: float) -> socket.socket | None:
    """A connection to the service; None when nobody listens.

    Where the socket should be comes first. A service that was started with another
    XDG_RUNTIME_DIR, by a login before this one or by cron, is found through the link to its socket
    that it keeps in the state directory.

    Raises:
        ConfigError: the socket belongs to another user.
        UnreachableError: it exists and cannot be used.
    """
    connection = _connect_to(str(paths.socket), deadline_s)
    if connection is None:
        try:
            recorded = os.readlink(paths.socket_link)  # noqa: PTH115 - not resolved
        except OSError:
            return None
        if recorded != str(paths.socket):
            connection = _connect_to(recorded, deadline_s)
    return connection


def _connect_to(path: str, deadline_s: float) -> socket.socket | None:
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise _unusable(path, error) from error
    connection.settimeout(deadline_s)
    try:
        connection.connect(path)
        _check_peer(connection)
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        connection.close()
        return None
    except MlschedError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise _unusable(path, error) from error
    return connection


def _unusable(path: str, error: OSError) -> UnreachableError:
    return UnreachableError(
        f"the socket {path} cannot be used: {error.strerror or error}.",
        "Run 'mlsched doctor' to see what is wrong.",
    )


def _check_peer(connection: socket.socket) -> None:
    """Never send an environment to a service of somebody else, who took the name first."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.getuid():
        raise ConfigError(
            f"the service on this socket belongs to user {uid}, and you are {os.getuid()}.",
            "Set XDG_RUNTIME_DIR and XDG_STATE_HOME to directories of your own.",
        )
