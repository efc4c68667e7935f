"""Everything that happens to pods and MLJobs, read from etcd itself: one stream, in total order.

    with Journal(plane.etcd_port) as journal:           # before the controller starts
        ...
        history = journal.history("team-a", until=journal.revision())

The API server must keep its objects as JSON (``STORAGE``). The stream goes on while the API server
restarts and when etcd is compacted, and it owes nothing to the code that is tested. Standard
library only.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

STORAGE = "--storage-media-type=application/json"
FIRST, LAST = b"/registry/mlsched.io/mljobs/", b"/registry/pods0"
PREFIXES = {"mljob": FIRST.decode(), "pod": "/registry/pods/"}
WAIT_S_MAX = 20.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One change of one object.

    Attributes:
        revision: Of etcd: the order of all changes.
        at_s: When it was read, by the monotonic clock.
        kind: ``pod`` or ``mljob``.
        value: The object after it, or None when it was removed.
    """

    revision: int
    at_s: float
    kind: str
    namespace: str
    name: str
    value: Json | None


class Journal:
    """Reads one etcd from now on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._changes: list[Change] = []
        self._read = 0
        self._news = threading.Condition()
        self._error = ""

    def __enter__(self) -> Journal:
        self._line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        wanted = {
            "key": base64.b64encode(FIRST).decode(),
            "range_end": base64.b64encode(LAST).decode(),
            "start_revision": str(self.revision() + 1),
            "progress_notify": True,
        }
        self._line.request("POST", "/v3/watch", json.dumps({"create_request": wanted}))
        self._answer = self._line.getresponse()
        self._answer.readline()
        self._thread = threading.Thread(target=self._follow, name="journal", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._line.sock is not None:
            with suppress(OSError):  # etcd has ended before
                self._line.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()  # it reads, and nothing else wakes it; closing would wait for it
        self._line.close()

    def revision(self) -> int:
        """The newest revision of etcd."""
        return int(self._ask("maintenance/status", {})["header"]["revision"])

    def history(self, namespace: str, until: int) -> list[Change]:
        """The changes in a namespace, up to a revision and perhaps some more.

        Raises:
            TimeoutError: the stream has not come so far.
        """
        self._mark()
        deadline = time.monotonic() + WAIT_S_MAX
        with self._news:
            while self._read < until:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._error:
                    raise TimeoutError(f"expected revision {until}, at {self._read} {self._error}")
                self._news.wait(left_s)
            return [one for one in self._changes if one.namespace == namespace]

    def _mark(self) -> None:
        """A write inside the range, so that the stream tells how far it has come."""
        key = base64.b64encode(b"/registry/mlsched.io/~journal").decode()
        self._ask("kv/put", {"key": key, "value": ""})

    def _ask(self, path: str, body: Json) -> Json:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as line:
            line.request("POST", f"/v3/{path}", json.dumps(body))
            found: Json = json.loads(line.getresponse().read())
        return found

    def _follow(self) -> None:
        try:
            while line := self._answer.readline():
                self._take(json.loads(line)["result"])
        except (OSError, ValueError, KeyError, AttributeError) as error:
            self._error = repr(error)

    def _take(self, result: Json) -> None:
        now_s = time.monotonic()
        changes = []
        for event in result.get("events", ()):
            pair = event["kv"]
            key = base64.b64decode(pair["key"]).decode()
            kind = next((k for k, p in PREFIXES.items() if key.startswith(p)), "")
            if not kind:
                continue
            namespace, _, name = key.removeprefix(PREFIXES[kind]).partition("/")
            value = None
            if event.get("type") != "DELETE":
                value = json.loads(base64.b64decode(pair["value"]))
                value["metadata"].pop("managedFields", None)
            revision = int(pair["mod_revision"])
            changes.append(Change(revision, now_s, kind, namespace, name, value))
        with self._news:
            self._changes += changes
            self._read = max(self._read, int(result["header"]["revision"]))
            self._news.notify_all()
