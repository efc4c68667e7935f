"""Follows MLJobs: a list, then a watch that goes on where it was, or a new list where it cannot.

One thread reads the API server; whoever waits for events takes them from a queue, so that it can
look at other things meanwhile and Ctrl-C is noticed at once.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from mlsched.adapters.kubernetes.connections import Connections, Flow
from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError, decode_status
from mlsched.adapters.kubernetes.objects import WatchEvent, decode_watch_event, job_path
from mlsched.api.closing import Closing
from mlsched.api.clusters.names import Reference
from mlsched.api.clusters.problems import TROUBLES, translate
from mlsched.api.clusters.records import Record, decode_list, decode_record, not_found
from mlsched.api.patience import Patience
from mlsched.errors import MlschedError
from mlsched.model.jobs import Job, JobState
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.server.views import JsonObject, job_view

WATCH_S = 290
"""After so long a server ends a watch by itself, and it goes on where it was."""

SILENCE_S_MAX = 90.0
"""Bookmarks come about once a minute: a watch that is silent for longer is half open."""

SLICE_S = 0.1
"""How long one of several streams is waited for before the others are looked at."""

_PAUSE_S = 0.3


class Changes:
    """From records as they come to JOB objects that are new or changed. No I/O.

    Args:
        wanted: Which jobs; None for all.
        until: ``ended``, ``running`` (an end counts too), or None for ever.
    """

    def __init__(self, wanted: Sequence[Reference] | None, until: str | None) -> None:
        self._wanted = None if wanted is None else set(wanted)
        self._until = until
        self._records: dict[str, Record] = {}
        self._told: dict[str, JsonObject] = {}
        self._open: set[str] = set()
        self._gone: set[str] = set()
        """What was wanted and deleted: nobody waits for what is made under its name later."""
        self._has_begun = False

    @property
    def is_over(self) -> bool:
        """Whether every job has reached what is waited for."""
        return self._has_begun and self._until is not None and not self._open

    def replace_all(self, records: Iterable[Record]) -> Iterator[JsonObject]:
        """Take a whole list; what is missing in it is gone."""
        found = {one.object.metadata.key: one for one in records}
        for key in [key for key in self._records if key not in found]:
            yield from self.remove(key)
        for one in found.values():
            yield from self.put(one)
        self._has_begun = True

    def put(self, record: Record) -> Iterator[JsonObject]:
        """Take the newest version of an object; one that was made anew is another object."""
        key = record.object.metadata.key
        known = self._records.get(key)
        if known is not None and known.object.metadata.uid != record.object.metadata.uid:
            yield from self.remove(key)
        if key in self._gone:
            return
        self._records[key] = record
        for job in self._chosen(record):
            yield from self._tell(job)

    def remove(self, key: str) -> Iterator[JsonObject]:
        """An object was deleted: for whoever waits for its jobs they were cancelled."""
        record = self._records.pop(key, None)
        if record is None:
            return
        for job in self._chosen(record):
            if not job.state.is_ended:
                reason = Reason(ReasonCode.CANCELLED, "its MLJob was deleted")
                yield from self._tell(replace(job, state=JobState.CANCELLED, reason=reason))
        if self._wanted is not None:
            self._gone.add(key)
            return
        for job in record.jobs:
            self._told.pop(job.id, None)

    def missing(self) -> Reference | None:
        """A job that is wanted and that no list has had."""
        for one in self._wanted or ():
            record = self._records.get(f"{one.namespace}/{one.name}")
            if record is None or not record.element(one.index):
                return one
        return None

    def _chosen(self, record: Record) -> list[Job]:
        if self._wanted is None:
            return list(record.jobs)
        metadata = record.object.metadata
        chosen: dict[str, Job] = {}
        for one in self._wanted:
            if (one.namespace, one.name) == (metadata.namespace, metadata.name):
                chosen.update((job.id, job) for job in record.element(one.index))
        return sorted(chosen.values(), key=lambda job: job.array.index if job.array else 0)

    def _tell(self, job: Job) -> Iterator[JsonObject]:
        view = job_view(job, None)
        is_first_and_over = self._wanted is None and job.state.is_ended and job.id not in self._told
        if job.state.is_ended or (self._until == "running" and job.state is JobState.RUNNING):
            self._open.discard(job.id)
        elif job.id not in self._told:
            self._open.add(job.id)
        if self._told.get(job.id) != view:
            self._told[job.id] = view
            if not is_first_and_over:
                yield view


class WatchStream(Closing):
    """Iterating gives JOB objects; afterwards ``result`` says whether the time was over.

    Args:
        namespace: In which to look.
        wanted: Which jobs; None for every job that is open or comes.
        until: As `Changes` has it.
        timeout_s: Give up after so long; None never.

    Raises (while it is read):
        NotFoundError: a job does not exist.
        MlschedError: the API server refuses, or does not come back.
    """

    def __init__(
        self,
        connections: Connections,
        namespace: str,
        wanted: Sequence[Reference] | None,
        until: str | None,
        timeout_s: float | None = None,
    ) -> None:
        self.is_over = False
        self.result: Any = None
        self._connections = connections
        self._path = job_path(namespace)
        self._selector = {}
        if wanted is not None and len({one.name for one in wanted}) == 1:
            self._selector = {"fieldSelector": f"metadata.name={wanted[0].name}"}
        self._changes = Changes(wanted, until)
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._queue: queue.SimpleQueue[JsonObject | MlschedError | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._flow: Flow | None = None
        self._has_listed = False
        self._version = ""
        self._patience = Patience()
        threading.Thread(target=self._run, name="mlsched-watch", daemon=True).start()

    def close(self) -> None:
        """Leave."""
        self._closed.set()
        if self._flow is not None:
            self._flow.close()

    def __iter__(self) -> Iterator[Any]:
        while not self.is_over:
            yield from self.poll(None)

    def poll(self, timeout_s: float | None) -> list[Any]:
        """Events that arrive within so many seconds; None waits for the next one."""
        events: list[JsonObject] = []
        wait_s = self._left_s(timeout_s)
        while not self.is_over:
            try:
                found = self._queue.get(timeout=wait_s) if wait_s != 0 else self._queue.get(False)
            except queue.Empty:
                break
            if isinstance(found, MlschedError):
                self.close()
                self.is_over = True
                raise found
            if found is None:
                self._end(timed_out=False)
            else:
                events.append(found)
            wait_s = 0
        if self._deadline is not None and not events and time.monotonic() >= self._deadline:
            self._end(timed_out=True)
        return events

    def _left_s(self, timeout_s: float | None) -> float | None:
        if self._deadline is None:
            return timeout_s
        left_s = max(0.0, self._deadline - time.monotonic())
        return left_s if timeout_s is None else min(timeout_s, left_s)

    def _end(self, *, timed_out: bool) -> None:
        self.close()
        self.is_over = True
        self.result = {"timed_out": timed_out}

    def _run(self) -> None:
        """The thread: never raises, puts what it finds into the queue."""
        try:
            while not self._closed.is_set() and not self._changes.is_over:
                self._go_on()
        except TROUBLES as error:
            self._queue.put(translate(error, self._connections.access.context))
        except MlschedError as error:
            self._queue.put(error)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            self._queue.put(MlschedError(f"following jobs failed: {error!r}"))
        else:
            self._queue.put(None)

    def _go_on(self) -> None:
        """List or watch once more.

        Raises:
            ApiError, NoAnswerError, NotFoundError: for good.
        """
        try:
            if self._version:
                self._watch()
            else:
                self._list()
        except ApiError as error:
            if error.is_gone:
                self._version = ""
            elif not error.is_temporary or self._has_lost_patience():
                raise
        except NoAnswerError:
            if not self._closed.is_set() and self._has_lost_patience():
                raise

    def _has_lost_patience(self) -> bool:
        """Wait a little; whether nothing was answered for too long, which a quiet watch is not."""
        self._closed.wait(_PAUSE_S)
        return not self._has_listed or self._patience.is_lost()

    def _list(self) -> None:
        records, self._version = decode_list(self._connections.get(self._path, self._selector))
        self._patience.renew()
        for event in self._changes.replace_all(records):
            self._queue.put(event)
        lost = None if self._has_listed else self._changes.missing()
        self._has_listed = True
        if lost is not None:
            raise not_found(lost.name, self._connections.access.context)

    def _watch(self) -> None:
        params: Mapping[str, str | int] = {
            **self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": WATCH_S,
        }
        self._flow = self._connections.follow(self._path, params, SILENCE_S_MAX)
        self._patience.renew()
        if self._closed.is_set():
            self._flow.close()
        with self._flow as flow:
            for line in flow.lines():
                self._take(line)
                if self._changes.is_over:
                    return
        # Some proxies end each watch at once, and nothing is lost by a pause.
        self._closed.wait(_PAUSE_S)

    def _take(self, line: bytes) -> None:
        event = decode_watch_event(line)
        if event.type == "ERROR":
            status = decode_status(event.object)
            raise ApiError(status.code, status.reason, status.message)
        for one in self._changes_of(event):
            self._queue.put(one)
        self._version = _versions.decode(event.object).metadata.resource_version

    def _changes_of(self, event: WatchEvent) -> Iterable[JsonObject]:
        if event.type == "BOOKMARK":
            return ()
        try:
            record = decode_record(event.object)
        except msgspec.DecodeError:
            return ()
        if event.type == "DELETED":
            return self._changes.remove(record.object.metadata.key)
        return self._changes.put(record)


class JoinedStream(Closing):
    """Several streams as one, since nobody need have rights in more than his own namespaces.

    Args:
        streams: At least one.
    """

    def __init__(self, streams: Sequence[WatchStream]) -> None:
        self._streams = streams
        self.is_over = False
        self.result: Any = None

    def close(self) -> None:
        """Leave all."""
        for stream in self._streams:
            stream.close()

    def __iter__(self) -> Iterator[Any]:
        while not self.is_over:
            yield from self.poll(None)

    def poll(self, timeout_s: float | None) -> list[Any]:
        """Events that arrive within so many seconds; None waits for the next one."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, min(SLICE_S, deadline - time.monotonic()))
            events = self._take(left_s)
            if events or self.is_over or not left_s:
                return events

    def _take(self, wait_s: float) -> list[Any]:
        """What each has now, waiting for the first one that goes on."""
        events: list[Any] = []
        for stream in self._streams:
            if not stream.is_over:
                events += stream.poll(wait_s)
                wait_s = 0.0
        self.is_over = all(stream.is_over for stream in self._streams)
        if self.is_over:
            timed_out = any(stream.result["timed_out"] for stream in self._streams)
            self.result = {"timed_out": timed_out}
        return events


def watch_jobs(
    connections: Connections,
    namespace: str,
    wanted: Sequence[Reference] | None,
    until: str | None,
    timeout_s: float | None,
) -> WatchStream | JoinedStream:
    """A stream of these jobs, or of all of a namespace."""
    if wanted is None:
        return WatchStream(connections, namespace, None, until, timeout_s)
    spaces: dict[str, list[Reference]] = {}
    for one in wanted:
        spaces.setdefault(one.namespace, []).append(one)
    streams = [
        WatchStream(connections, space, inside, until, timeout_s)
        for space, inside in spaces.items()
    ]
    return streams[0] if len(streams) == 1 else JoinedStream(streams)


class _VersionMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Versioned(msgspec.Struct):
    metadata: _VersionMetadata


_versions = msgspec.json.Decoder(_Versioned)
