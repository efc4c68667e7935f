"""Output of pods, brought to a directory of this process in the form that it has on one machine.

Everything that reads and prints output then works unchanged. One thread looks for the pods of each
attempt, one thread follows each container; a stream that breaks is opened again. The directory is
private and is removed at the end.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from mlsched.adapters.kubernetes.connections import Connections, Flow
from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError
from mlsched.adapters.kubernetes.objects import (
    ContainerStatus,
    Pod,
    decode_pod,
    decode_raw_list,
)
from mlsched.adapters.kubernetes.pods import ATTEMPT_LABEL, INDEX_LABEL, JOB_LABEL
from mlsched.api.clusters.lines import LineJoiner
from mlsched.api.clusters.names import Reference, parse_reference
from mlsched.api.clusters.problems import TROUBLES, translate
from mlsched.api.interfaces import JsonObject, Outputs
from mlsched.api.patience import Patience
from mlsched.errors import MlschedError

PAUSE_S, PAUSE_S_MAX = 0.25, 2.0
"""Between two looks for pods and containers that have not started; doubles while there are none."""

ABSENT = (400, 404)
"""There is no log: the container has not begun, or its kubelet does not know the pod, not yet or no
longer."""

ENDED_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
_RANK = re.compile(r"rank-(\d{1,6})")


def pods_query(reference: Reference, attempt: int) -> tuple[str, dict[str, str]]:
    """Path and parameters of a list of the pods of one attempt."""
    selector = [f"{JOB_LABEL}={reference.name}", f"{ATTEMPT_LABEL}={attempt}"]
    selector += [f"{INDEX_LABEL}={reference.index}"] if reference.index is not None else []
    path = f"/api/v1/namespaces/{reference.namespace}/pods"
    return path, {"labelSelector": ",".join(selector)}


class PodOutputs(Outputs):
    """The output of jobs of one cluster, as long as this is open.

    Args:
        on_problem: Takes one line on what cannot be shown.
    """

    def __init__(
        self, connections: Connections, on_problem: Callable[[str], None] = lambda line: None
    ) -> None:
        self._connections = connections
        self._on_problem = on_problem
        self._root = Path(tempfile.mkdtemp(prefix="mlsched-logs-"))
        self._attempts: dict[tuple[str, int], AttemptMirror] = {}

    def look(self, job: JsonObject) -> None:
        """Begin to bring the output of an attempt that is new, and learn how far it is."""
        job_id, newest = str(job["id"]), int(job["attempt"])
        for (known_id, number), mirror in self._attempts.items():
            if known_id == job_id and number < newest:
                mirror.settle()
        if newest < 1:
            return
        mirror = self._begin(job_id, newest)
        if job["state"] in ENDED_STATES or job["state"] in ("RUNNING", "PENDING"):
            mirror.settle()

    def fetch(self, job: JsonObject, attempt: int) -> Path:
        """Bring all that an attempt has written so far.

        Raises:
            MlschedError: the API server refuses.
        """
        job_id = str(job["id"])
        directory = self.directory(job_id, attempt)
        directory.mkdir(parents=True, exist_ok=True)
        mirror = AttemptMirror(self._connections, job_id, attempt, directory, self._on_problem)
        mirror.copy()
        return directory

    def directory(self, job_id: str, attempt: int) -> Path:
        """Where an attempt's output appears."""
        return self._root / job_id / str(attempt)

    def is_whole(self, job_id: str, attempt: int) -> bool:
        """Whether everything was brought here."""
        mirror = self._attempts.get((job_id, attempt))
        return mirror is None or mirror.is_done

    def close(self) -> None:
        """End all threads and remove what was brought."""
        for mirror in self._attempts.values():
            mirror.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def _begin(self, job_id: str, attempt: int) -> AttemptMirror:
        key = (job_id, attempt)
        if key not in self._attempts:
            directory = self.directory(job_id, attempt)
            directory.mkdir(parents=True, exist_ok=True)
            mirror = AttemptMirror(self._connections, job_id, attempt, directory, self._on_problem)
            self._attempts[key] = mirror
            mirror.start()
        return self._attempts[key]


class AttemptMirror:
    """Brings the output of all containers of one attempt."""

    def __init__(
        self,
        connections: Connections,
        job_id: str,
        attempt: int,
        directory: Path,
        on_problem: Callable[[str], None],
    ) -> None:
        self._connections = connections
        self._directory = directory
        self._on_problem = on_problem
        found = parse_reference(job_id, "")
        if found is None:
            raise AssertionError(f"{job_id} is no id of a job in a cluster")
        self._path, self._params = pods_query(found, attempt)
        self._containers: dict[tuple[str, str], ContainerMirror] = {}
        self._settled = threading.Event()
        self._closed = threading.Event()
        self._has_all = False
        self._pause_s = PAUSE_S
        self._patience = Patience()

    @property
    def is_done(self) -> bool:
        """Whether all pods were found, and all of their output is here."""
        return self._has_all and all(one.is_done for one in list(self._containers.values()))

    def start(self) -> None:
        """Begin to follow."""
        threading.Thread(target=self._run, name="mlsched-pods", daemon=True).start()

    def settle(self) -> None:
        """No more pods will come of this attempt than there are now."""
        self._settled.set()

    def close(self) -> None:
        """End all threads."""
        self._closed.set()
        self._settled.set()
        for one in list(self._containers.values()):
            one.close()

    def copy(self) -> None:
        """Bring what is there now, without following.

        Raises:
            MlschedError: the API server refuses.
        """
        try:
            pods = self._list()
            for pod in pods:
                for container in pod.spec.containers:
                    mirror = self._mirror(pod, container.name)
                    if mirror is not None:
                        mirror.copy()
        except TROUBLES as error:
            raise translate(error, self._connections.access.context) from error
        if not pods:
            self._on_problem("its pods are gone, and their output with them.")

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                is_last = self._settled.is_set()
                if self._find() and is_last:
                    break
                (self._closed if is_last else self._settled).wait(self._pause_s)
                self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
        except TROUBLES as error:
            self._on_problem(translate(error, self._connections.access.context).message)
        finally:
            self._has_all = True

    def _find(self) -> bool:
        """Follow the containers of pods that are new; False when there was no answer.

        Raises:
            ApiError, NoAnswerError: they may not be listed, or nobody answers for too long.
        """
        try:
            pods = self._list()
        except NoAnswerError:
            if self._patience.is_lost():
                raise
            return False
        except ApiError as error:
            if error.is_temporary and not self._patience.is_lost():
                return False
            raise
        self._patience.renew()
        for pod in pods:
            for container in pod.spec.containers:
                key = (pod.metadata.name, container.name)
                mirror = self._mirror(pod, container.name) if key not in self._containers else None
                if mirror is not None:
                    self._containers[key] = mirror
                    self._pause_s = PAUSE_S
                    mirror.start()
        return True

    def _list(self) -> list[Pod]:
        found = decode_raw_list(self._connections.get(self._path, self._params))
        return [decode_pod(item) for item in found.items]

    def _mirror(self, pod: Pod, container: str) -> ContainerMirror | None:
        rank = _RANK.fullmatch(container)
        if rank is None:
            return None
        file = self._directory / f"rank-{int(rank[1])}.log"
        path = f"{self._path}/{pod.metadata.name}"
        return ContainerMirror(self._connections, path, container, file, self._on_problem)


class ContainerMirror:
    """Brings the output of one container into one file."""

    def __init__(
        self,
        connections: Connections,
        pod_path: str,
        container: str,
        file: Path,
        on_problem: Callable[[str], None],
    ) -> None:
        self._connections = connections
        self._pod_path = pod_path
        self._container = container
        self._file = file
        self._on_problem = on_problem
        self._lines = LineJoiner()
        self._patience = Patience()
        self._flow: Flow | None = None
        self._pause_s = PAUSE_S
        self._closed = threading.Event()
        self.is_done = False

    def start(self) -> None:
        """Begin to follow."""
        threading.Thread(target=self._run, name="mlsched-log", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._flow is not None:
            self._flow.close()

    def copy(self) -> None:
        """Bring what is there now.

        Raises:
            ApiError, NoAnswerError: it cannot be read, and not because it has not begun.
        """
        try:
            with self._file.open("wb") as file:
                self._read(file.write, follow=False)
                file.write(self._lines.finish())
        except ApiError as error:
            self._file.unlink(missing_ok=True)
            if error.code not in ABSENT:
                raise

    def _run(self) -> None:
        try:
            with self._file.open("ab", buffering=0) as file:
                try:
                    self._follow(file.write)
                finally:
                    # A last line may have no end, and its pod may go before it is asked for again.
                    file.write(self._lines.finish())
        except (ApiError, MlschedError, msgspec.DecodeError) as error:
            if not self._closed.is_set():
                self._on_problem(f"the output of {self._container} cannot be shown: {error}")
        except OSError as error:
            if not self._closed.is_set():
                self._on_problem(f"output cannot be kept here: {error.strerror}")
        finally:
            self.is_done = True

    def _follow(self, write: Callable[[bytes], object]) -> None:
        """Read to the end of the container, however often the stream breaks.

        Raises:
            ApiError, NoAnswerError: it cannot be read.
            OSError: it cannot be written.
        """
        while not self._closed.is_set():
            try:
                if self._read_on(write):
                    return
            except NoAnswerError:
                if self._patience.is_lost():
                    raise
            except ApiError as error:
                if error.code == 404:
                    return
                if not error.is_temporary or self._patience.is_lost():
                    raise
            self._closed.wait(self._pause_s)
            self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)

    def _read_on(self, write: Callable[[bytes], object]) -> bool:
        """Read what is new; whether that was all for ever.

        Raises:
            ApiError, NoAnswerError: it cannot be read.
        """
        has_ended = self._has_ended()
        try:
            self._read(write, follow=True)
        except ApiError as error:
            if error.code not in ABSENT:
                raise
        return has_ended

    def _has_ended(self) -> bool:
        """Whether the container has ended for good, or never begins.

        Raises:
            ApiError, NoAnswerError: nobody knows, or the pod is gone.
        """
        pod = decode_pod(self._connections.get(self._pod_path))
        return pod.is_over or any(
            one.name == self._container and _is_over(one) for one in pod.status.container_statuses
        )

    def _read(self, write: Callable[[bytes], object], *, follow: bool) -> None:
        params: dict[str, str | int] = {"container": self._container, "timestamps": "true"}
        if follow:
            params["follow"] = "true"
        if self._lines.since:
            params["sinceTime"] = self._lines.since
        self._flow = self._connections.follow(f"{self._pod_path}/log", params)
        self._lines.reconnect()
        self._patience.renew()
        with self._flow as flow:
            if self._closed.is_set():
                return
            for chunk in flow.chunks():
                self._pause_s = PAUSE_S
                write(self._lines.feed(chunk))


def _is_over(status: ContainerStatus) -> bool:
    return status.state.terminated is not None
