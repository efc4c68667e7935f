"""One connection pool to one API server: requests, errors as values of their own, and watches.

HTTP/1.1 with keep-alive on aiohttp; every answer is bytes that the caller decodes into the type it
wants. Writes are three fenced verbs only: create by name, update by resource version, delete by
uid. Nothing is retried here: only the caller knows whether doing it again is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.errors import (
    ApiError,
    NoAnswerError,
    SilenceError,
    Status,
    read_error,
)

__all__ = ["Api", "ApiError", "NoAnswerError", "Params", "SilenceError", "Status", "read_error"]

IN_FLIGHT_MAX = 64
"""Requests at once, watches aside. Source: 16 to 64 fill an API server on two cores (measured)."""

ANSWER_S_MAX = 30.0
"""For one answer: an API server gives up on its own after 60 s, and most answers take 10 ms."""

Params = Mapping[str, str | int]


class Api:
    """Asks one API server.

    Args:
        access: Where it is and who asks.
        fence: Called before each write; raises when this process must not write any more.
        answer_s_max: How long one answer may take.
    """

    def __init__(
        self,
        access: Access,
        fence: Callable[[], None] = lambda: None,
        answer_s_max: float = ANSWER_S_MAX,
    ) -> None:
        self.access = access
        self._server_name = access.route.server_name or None
        self._answer_s_max = answer_s_max
        self.writes = 0
        """Requests that change something, so far."""
        self._fence = fence
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0, ssl=self.access.ssl_context(), keepalive_timeout=60
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                proxy=self.access.route.proxy or None,
                auto_decompress=True,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                read_bufsize=1 << 20,
                trace_configs=[_fencing(self._fence)],
            )
        return self._session

    async def get(self, path: str, params: Params | None = None) -> bytes:
        """The body of one object or list.

        Raises:
            ApiError: refused.
            NoAnswerError: nothing came back.
        """
        return await self._request("GET", path, params=params)

    async def serves(self, path: str) -> bool:
        """Whether a list exists, and we may read it.

        Raises:
            NoAnswerError: nothing came back that tells.
        """
        try:
            await self.get(path, {"limit": 1})
        except ApiError as error:
            if error.code in (403, 404):
                return False
            raise NoAnswerError(f"GET {path}: {error}") from error
        return True

    async def create(self, path: str, body: bytes) -> bytes:
        """Create an object whose name is in its body; the object as it was stored.

        Raises:
            ApiError, NoAnswerError: as `get`; after the latter it may exist.
        """
        return await self._request("POST", path, body)

    async def replace(self, path: str, body: bytes) -> bytes:
        """Replace an object or its status; the body must hold the resource version.

        Raises:
            ApiError, NoAnswerError: as `get`; code 409 when somebody was faster.
        """
        return await self._request("PUT", path, body)

    async def patch(
        self, path: str, body: bytes, kind: str = "application/merge-patch+json"
    ) -> bytes:
        """Merge into an object; the body must hold the resource version or the uid.

        Raises:
            ApiError, NoAnswerError: as `get`.
        """
        return await self._request("PATCH", path, body, content_type=kind)

    async def delete(self, path: str, uid: str, grace_s: int | None = None) -> bytes:
        """Delete the object with this uid, and no other of the same name.

        Args:
            uid: Empty for an object whose name no other can have.

        Raises:
            ApiError, NoAnswerError: as `get`; code 409 when the uid is another.
        """
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        return await self._request("DELETE", path, msgspec.json.encode(options))

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        params: Params | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        headers = {"Authorization": self.access.authorization()} if self.access.has_token else {}
        if body is not None:
            headers["Content-Type"] = content_type
        url = self.access.server + path
        try:
            async with self._slots, asyncio.timeout(self._answer_s_max):
                if method != "GET":
                    self._fence()
                    self.writes += 1
                async with self._open().request(
                    method,
                    url,
                    data=body,
                    params=params,
                    headers=headers,
                    server_hostname=self._server_name,
                    trace_request_ctx=method != "GET",
                ) as answer:
                    found = await answer.read()
                    if answer.status >= 400:
                        raise read_error(answer.status, found, answer.headers.get("Retry-After"))
                    return found
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoAnswerError(f"{method} {path}: no answer: {error!r}") from error

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, params: Params, silence_s_max: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch, each one event.

        Args:
            silence_s_max: A connection on which nothing comes for so long is taken for dead.

        Raises:
            ApiError, NoAnswerError: as `get`; the latter also in the middle.
        """
        headers = {"Authorization": self.access.authorization()} if self.access.has_token else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence_s_max)
        try:
            async with self._open().get(
                self.access.server + path,
                params=params,
                headers=headers,
                server_hostname=self._server_name,
                timeout=timeout,
            ) as answer:
                if answer.status >= 400:
                    after = answer.headers.get("Retry-After")
                    raise read_error(answer.status, await answer.read(), after)
                yield _lines(answer.content)
        except aiohttp.SocketTimeoutError as error:
            raise SilenceError(f"watch {path}: silent for {silence_s_max:g} s") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoAnswerError(f"watch {path}: broke: {error!r}") from error


def _fencing(fence: Callable[[], None]) -> aiohttp.TraceConfig:
    """Checks the fence again once a write has a connection, which may have taken seconds."""

    async def check(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
        if context.trace_request_ctx:
            fence()

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(check)
    tracing.on_connection_reuseconn.append(check)
    return tracing


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; a last one without a newline was cut and is dropped."""
    rest = b""
    async for chunk in content.iter_any():
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield line
