"""The engine ``dask``: calls as tasks of a Dask scheduler, our own on this machine or a given one.

Our own cluster talks TLS with certificates made for it alone: Dask has no sockets of the file
system, and on plain TCP any user of the machine could send it code.
"""

from __future__ import annotations

import itertools
import logging
import os
import platform
import uuid
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from mlsched.errors import ConfigError, UnreachableError
from mlsched_pipelines.remotes import RemoteEngine, Report, describe_memory, import_extra
from mlsched_pipelines.starting import check_versions, make_version_probe, share_out, start_agent
from mlsched_pipelines.workers import WORKER_SETTINGS, WorkerSettings, perform

LATE_S_MAX = 5.0
"""How much later than Dask's own bound a client may tell that it found no scheduler."""

WORKERS_S_MAX = 30.0
"""Until an existing cluster has a worker."""

KEEP_EVERY_S = 1.0
"""Between two looks at whether our own cluster has all its workers."""

SEND_EVERY_S = 0.001
"""The client's messages wait at most so long for each other; Dask's 10 ms double a call's cost."""

OWN_SETTINGS: dict[str, Any] = {
    # Losses are counted by the engine, and one thread runs one task: no bystander is suspected.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # A call that holds the interpreter lock for minutes is slow, not lost.
    "distributed.scheduler.worker-ttl": None,
    # Calls may start processes of their own.
    "distributed.worker.daemon": False,
    # The guard of `remotes` bounds memory; a paused worker would wait for ever.
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.limit": "1 hour",
    # They would answer anybody, without TLS.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask would kill a worker that is not back in 15 s, and begin no other: `_keep_workers` does.
    "distributed.deploy.lost-worker-timeout": "1 hour",
}


class DaskEngine(RemoteEngine):
    """Run calls on a Dask cluster.

    Args:
        workers: Worker processes of our own cluster, one for each usable core by default; at an
            address the most calls that run at once.
        address: ``dask://HOST:PORT`` or ``tls://HOST:PORT`` of a scheduler; our own when empty.
        memory_max_bytes: Of all workers of our own cluster together; 60 % of what there is.

    Raises:
        ConfigError: Dask is not installed, or the cluster has other versions than we have.
        UnreachableError: nothing answers at the address, or no worker came within 30 s.
    """

    def __init__(
        self, workers: int | None = None, *, address: str = "", memory_max_bytes: int | None = None
    ) -> None:
        count, memory = share_out("DaskEngine", workers, memory_max_bytes, address)
        options = {"address": address, "workers": count, "memory_max_bytes": memory}
        peer = start_agent(__name__, options)
        super().__init__(peer, workers, peer.worker_bytes)


def hold(digest: str, data: bytes) -> tuple[str, bytes]:
    """Keep a pickled value on a worker; as a task, so that the scheduler can make it again."""
    return digest, data


def perform_held(held: tuple[str, bytes], work: bytes) -> bytes:
    """A call on a worker."""
    digest, data = held
    return perform(digest, lambda: data, work)


def start_placer(
    report: Report, folder: str, *, address: str, workers: int, memory_max_bytes: int
) -> DaskPlacer:
    """Start our own cluster or join one; runs in the agent."""
    if not address:
        for name in [name for name in os.environ if name.startswith("DASK_")]:
            del os.environ[name]
    distributed = import_extra("distributed", "dask")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if address:
        return _join(report, distributed, address)
    return _start(report, distributed, folder, workers, memory_max_bytes // workers)


def _start(
    report: Report, distributed: Any, folder: str, workers: int, worker_bytes: int
) -> DaskPlacer:
    import sys

    import_extra("cryptography", "dask")
    settings = WorkerSettings(tuple(sys.path), worker_bytes)
    os.environ[WORKER_SETTINGS] = msgspec.json.encode(settings).decode()
    use_own_settings(folder)
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        protocol="tls",
        security=distributed.Security.temporary(),
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        memory_limit=None,
        local_directory=str(Path(folder, "dask")),
        silence_logs=logging.CRITICAL,
    )
    _keep_workers(cluster, workers)
    client = distributed.Client(cluster, set_as_default=False)
    about = f"a Dask cluster of {describe_memory(workers, worker_bytes)}"
    return DaskPlacer(report, client, workers, about, worker_bytes)


def use_own_settings(folder: str) -> None:
    """Let this process's Dask have our settings; files of the user and the site are not meant."""
    config = import_extra("dask", "dask").config
    config.refresh(paths=[])
    config.set(OWN_SETTINGS | {"temporary-directory": folder})


def _keep_workers(cluster: Any, count: int) -> None:
    """Start workers again that Dask has given up, or that have left while their process stays."""

    def look() -> None:
        for name, nanny in list(cluster.workers.items()):
            if nanny.status.name in {"closed", "failed"}:
                del cluster.workers[name]
            elif _has_left(nanny, cluster.scheduler.workers):
                os.kill(nanny.pid, 9)
        cluster.scale(count)

    timer = import_extra("tornado.ioloop", "dask").PeriodicCallback(look, 1000 * KEEP_EVERY_S)
    cluster.loop.add_callback(timer.start)


def _has_left(nanny: Any, known: Container[str]) -> bool:
    """Whether a worker's process lives on without its loop, so that no call gets there."""
    runs = nanny.pid and nanny.process.status.name == "running"
    return bool(runs and nanny.worker_address not in known)


def _join(report: Report, distributed: Any, address: str) -> DaskPlacer:
    scheduler = address.replace("dask://", "tcp://")
    connect = partial(distributed.Client, set_as_default=False)
    try:
        # A client never ends by itself where something else than Dask listens.
        wait_s = _connect_s_max() + LATE_S_MAX
        client = ThreadPoolExecutor(1).submit(connect, scheduler).result(wait_s)
    except OSError as error:
        raise UnreachableError(
            f"No Dask scheduler answers at {address}: {str(error) or 'what listens is none'}.",
            "Check the address (its port is not that of the dashboard), and for tls:// the "
            "certificates in Dask's configuration.",
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Dask cannot connect to {address}: {error}.") from error
    try:
        client.wait_for_workers(1, timeout=WORKERS_S_MAX)
    except TimeoutError as error:
        raise UnreachableError(
            f"The Dask scheduler at {address} had no worker within {WORKERS_S_MAX:.0f} s.",
            f"Start one: dask worker {scheduler}",
        ) from error
    check_versions(f"the Dask cluster at {address}", client.run(make_version_probe()))
    slots, about = sum(client.nthreads().values()), f"the Dask cluster at {address}"
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [limit for worker in workers if (limit := worker["memory_limit"])]
    return DaskPlacer(report, client, slots, about, min(limits, default=None))


def _connect_s_max() -> float:
    """How long Dask tries to connect: 30 s, unless the user's configuration has another time."""
    dask = import_extra("dask", "dask")
    found = dask.config.get("distributed.comm.timeouts.connect")
    return float(dask.utils.parse_timedelta(found))


class DaskPlacer:
    """Calls as futures of a client; see `mlsched_pipelines.remotes.Placer`."""

    def __init__(
        self, report: Report, client: Any, slots: int, about: str, worker_bytes: int | None
    ) -> None:
        self.slots, self.about, self.worker_bytes = slots, about, worker_bytes
        self._report, self._client = report, client
        self._held: dict[int, Any] = {}
        self._prefix = f"mlsched-{platform.node()}-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        client.scheduler_comm.interval = SEND_EVERY_S

    def put(self, ref: int, digest: str, data: bytes) -> None:
        """Hold a pickled value as a task."""
        self._held[ref] = self._client.submit(hold, digest, data, key=self._name("hold"))

    def drop(self, ref: int) -> None:
        """Let the scheduler forget a value when no call needs it."""
        self._held.pop(ref, None)

    def start(self, number: int, ref: int, work: bytes) -> None:
        """Submit a call under a new key, and hold its value again when that failed."""
        held = self._held[ref]
        if held.status == "error":
            held.retry()
        future = self._submit_spread(perform_held, held, work)
        future.add_done_callback(lambda ended: self._tell(number, ended))

    def close(self) -> None:
        """Leave the cluster, which forgets our calls."""
        self._client.close(timeout=2)

    def _submit_spread(self, function: Any, held: Any, work: bytes) -> Any:
        """Submit to the least busy worker; by default it would be the one that has the value."""
        key, spec = self._name("call"), import_extra("dask._task_spec", "dask")
        parts = (spec.parse_input(held), spec.DataNode(None, work))
        task = spec.Task(key, function, *parts, _data_producer=True)
        return self._client.get({key: task}, key, sync=False)

    def _name(self, kind: str) -> str:
        return f"{self._prefix}-{kind}-{next(self._numbers)}"

    def _tell(self, number: int, future: Any) -> None:
        from distributed import KilledWorker

        try:
            if future.status == "finished":
                self._report("free", number)
            self._report("ended", number, future.result())
        except KilledWorker as error:
            worker = getattr(error.last_worker, "address", "unknown")
            why = f"worker {worker} died or was killed."
            self._report("lost", number, error.allowed_failures + 1, why)
        except Exception as error:  # noqa: BLE001
            if future.status in {"cancelled", "lost"} or self._client.status != "running":
                self._report("gone", f"{self.about} is gone: its scheduler does not answer.")
            else:
                self._report("failed", number, f"{type(error).__name__}: {error}")
