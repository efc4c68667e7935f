"""A local copy of all objects of one kind: list, watch, resume, relist.

Versions decide everything: what is older than what is known is dropped, whether it comes from a
watch, from a list, or from the answer to a write of our own. So our own writes are seen at once and
are never taken for absent by a list that began before them (faults F2, F5, F6 of the reliability
catalogue).
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError, NoAnswerError, SilenceError
from mlsched.adapters.kubernetes.errors import decode_status
from mlsched.adapters.kubernetes.objects import (
    Metadata,
    RawList,
    WatchEvent,
    decode_partial,
    decode_raw_list,
    decode_watch_event,
)

WATCH_S = 290
"""After so long a server ends a watch by itself, and it goes on where it was."""

SILENCE_S_MAX = 90.0
"""Bookmarks come about once a minute: a watch that is silent for longer is half open (F4)."""

DELAY_S_MIN, DELAY_S_MAX = 0.1, 10.0
"""Between two tries while the API server does not answer; doubles, with jitter."""

_GONE_MAX = 4096
"""Deleted keys whose versions are remembered, so that a late event does not bring them back."""


class HasMetadata(Protocol):
    """An object with metadata."""

    @property
    def metadata(self) -> Metadata:
        """Name, uid and version."""
        ...


T = TypeVar("T", bound=HasMetadata)
Handler = Callable[[T | None, T | None], None]


class Reflector(Generic[T]):
    """Keeps ``objects``, by key, like the API server's.

    Args:
        path: Of the list, such as ``/api/v1/pods``.
        kind: The type to decode into.
        handle: Called with the object before and after each change; None where there is none.
            What it raises is told as a problem of this object, and keeps no other from being told.
        params: Field and label selectors.
        on_problem: Takes one line for the log.
        silence_s_max: A watch on which nothing comes for so long is begun anew.
    """

    def __init__(  # noqa: PLR0913 - one argument a thing that differs between kinds
        self,
        api: Api,
        path: str,
        kind: type[T],
        handle: Handler[T] = lambda before, after: None,
        *,
        params: Mapping[str, str] | None = None,
        on_problem: Callable[[str], None] = lambda line: None,
        silence_s_max: float = SILENCE_S_MAX,
    ) -> None:
        self.objects: dict[str, T] = {}
        self.synced = asyncio.Event()
        self.lists = 0
        """How often everything was listed."""
        self.spoilt: dict[str, str] = {}
        """Objects that cannot be decoded, by key, with the reason: they count as absent."""
        self._api = api
        self._path = path
        self._decoder = msgspec.json.Decoder(kind)
        self.handle = handle
        self._params = dict(params or {})
        self._on_problem = on_problem
        self.silence_s_max = silence_s_max
        self._version = ""
        self._gone: dict[str, tuple[str, int]] = {}
        self._heard_s = time.monotonic()

    @property
    def lag_s(self) -> float:
        """Seconds since the API server was last heard on this kind."""
        return time.monotonic() - self._heard_s

    async def run(self) -> None:
        """Follow the API server for ever."""
        delay_s = DELAY_S_MIN
        while True:
            heard_s = self._heard_s
            try:
                if not self._version:
                    await self.list_all()
                await self._watch()
                delay_s = DELAY_S_MIN
                continue
            except ApiError as error:
                if error.is_gone:
                    self._version = ""
                    continue
                after_s = error.retry_after_s or 0
                self._on_problem(f"{self._path}: {error}")
            except SilenceError:
                continue
            except NoAnswerError as error:
                after_s = 0
                self._on_problem(f"{self._path}: {error.message}")
            if self._heard_s > heard_s:
                delay_s = DELAY_S_MIN
            await asyncio.sleep(max(after_s, delay_s * random.uniform(0.5, 1)))
            delay_s = min(2 * delay_s, DELAY_S_MAX)

    async def list_all(self) -> None:
        """Replace what is known by what the API server has.

        Raises:
            ApiError, NoAnswerError: nothing is changed.
        """
        body = await self._api.get(self._path, self._params)
        collecting = gc.isenabled()
        gc.disable()  # most of the cost of a large list would be the collector's
        try:
            found = _decode_list(body)
            self._replace(found)
        finally:
            if collecting:
                gc.enable()
        self._version = found.metadata.resource_version
        self.lists += 1
        self._heard_s = time.monotonic()
        self.synced.set()

    def _replace(self, found: RawList) -> None:
        listed_at = int(found.metadata.resource_version or 0)
        seen = set()
        for item in found.items:
            one = self._decode(item)
            if one is not None:
                seen.add(one.metadata.key)
                self._put(one)
            else:
                seen.add(_key_of(item))
        for key in [key for key in self.objects if key not in seen]:
            if self.objects[key].metadata.version <= listed_at:
                self._remove(key, listed_at)

    async def _watch(self) -> None:
        params: dict[str, str | int] = {
            **self._params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": WATCH_S,
        }
        async with self._api.watch(self._path, params, self.silence_s_max) as lines:
            await self._follow(lines)

    async def _follow(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            self._heard_s = time.monotonic()
            event = _decode_event(line)
            if event.type == "ERROR":
                status = decode_status(event.object)
                raise ApiError(status.code, status.reason, status.message)
            metadata = _metadata_of(event.object)
            if event.type == "DELETED":
                self._delete(metadata, event.object)
            elif event.type != "BOOKMARK":
                one = self._decode(event.object)
                if one is not None:
                    self._put(one)
            self._version = metadata.resource_version

    def _delete(self, metadata: Metadata, last: msgspec.Raw) -> None:
        known = self.objects.get(metadata.key)
        if known is None or known.metadata.uid != metadata.uid:
            self._note_gone(metadata.key, metadata.uid, metadata.version)
            return
        one = self._decode(last)
        if one is not None and known.metadata.version < metadata.version:
            self.objects[metadata.key] = one
            self._tell(known, one)
        self._remove(metadata.key, metadata.version)

    def put(self, body: bytes) -> T:
        """Take note of an object that a write of ours was answered with.

        Raises:
            msgspec.DecodeError: it is none of this kind.
        """
        one = self._decoder.decode(body)
        self._put(one)
        return one

    def note_gone(self, key: str, uid: str, version: int) -> None:
        """Take note that an object does not exist any more, as a write of ours was told."""
        known = self.objects.get(key)
        if known is not None and known.metadata.uid == uid:
            self._remove(key, version or known.metadata.version)

    def _put(self, one: T) -> None:
        key, version = one.metadata.key, one.metadata.version
        uid, gone_at = self._gone.get(key, ("", 0))
        if uid == one.metadata.uid and version <= gone_at:
            return
        before = self.objects.get(key)
        if before is not None:
            if before.metadata.version >= version:
                return
            if before.metadata.uid != one.metadata.uid:
                self._remove(key, before.metadata.version)
                before = None
        self.objects[key] = one
        self._tell(before, one)

    def _remove(self, key: str, version: int) -> None:
        before = self.objects.pop(key)
        self._note_gone(key, before.metadata.uid, max(version, before.metadata.version))
        self._tell(before, None)

    def _note_gone(self, key: str, uid: str, version: int) -> None:
        self._gone.pop(key, None)
        self._gone[key] = (uid, version)
        while len(self._gone) > _GONE_MAX:
            del self._gone[next(iter(self._gone))]

    def tell_all(self, handle: Handler[T], objects: Iterable[T] | None = None) -> None:
        """Tell ``handle`` of every object that is known, and from now on of each change.

        Args:
            objects: All that are known, in another order than they came.
        """
        self.handle = handle
        for one in list(self.objects.values() if objects is None else objects):
            self._tell(None, one)

    def _tell(self, before: T | None, after: T | None) -> None:
        try:
            self.handle(before, after)
        except Exception as error:  # noqa: BLE001 - one odd object must not end the work on others
            about = after or before
            key = about.metadata.key if about is not None else ""
            self._on_problem(f"{self._path}: {key} is left alone: {error!r}")

    def _decode(self, item: msgspec.Raw) -> T | None:
        """The object; None for one that is not as it should be, which spoils itself alone (F35)."""
        try:
            return self._decoder.decode(item)
        except (msgspec.DecodeError, RecursionError) as error:
            key = _key_of(item)
            self.spoilt[key] = str(error)
            self._on_problem(f"{self._path}: {key} is left alone: {error}")
            return None


def _decode_list(body: bytes) -> RawList:
    try:
        return decode_raw_list(body)
    except msgspec.DecodeError as error:
        raise NoAnswerError(f"expected a list, found {body[:100]!r}: {error}") from error


def _decode_event(line: bytes) -> WatchEvent:
    try:
        return decode_watch_event(line)
    except msgspec.DecodeError as error:
        raise NoAnswerError(f"a watch sent what is no event: {line[:100]!r}: {error}") from error


def _metadata_of(item: msgspec.Raw) -> Metadata:
    try:
        return decode_partial(item).metadata
    except msgspec.DecodeError as error:
        raise NoAnswerError(f"an event without metadata: {error}") from error


def _key_of(item: msgspec.Raw) -> str:
    try:
        return decode_partial(item).metadata.key
    except msgspec.DecodeError:
        return "(an object without a name)"
