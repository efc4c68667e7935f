"""The engine ``ray``: calls as Ray tasks, on a cluster of our own, a given one, or the caller's.

Our own cluster listens on the loopback address alone and wants a token that only its processes
know (Ray has token authentication since 2.52), so that other users of the machine stay out. It
runs without Ray's dashboard, autoscaler and log monitor, which no call needs.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec

from mlsched.errors import ConfigError, UnreachableError
from mlsched_pipelines.remotes import RemoteEngine, Report, describe_memory, import_extra
from mlsched_pipelines.starting import check_versions, make_version_probe, share_out, start_agent
from mlsched_pipelines.workers import WORKER_SETTINGS, WorkerSettings, perform

STORE_SHARE = 0.1
"""Of the memory of our own cluster, for Ray's object store in shared memory."""

STORE_BYTES_MIN = 80 << 20
"""Ray refuses to start with less than 75 MiB.

Source: ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES.
"""

WORKERS_S_MAX = 30.0
"""Until an existing cluster has a CPU, and answers."""

JOIN_TRIES = 4
"""Connections to a cluster that are begun before it counts as unreachable."""

FIRST_VERSION, LAST_VERSION = "2.52", "2.60"
"""Of Ray; a later one is taken too as long as it has what `stay_local` replaces."""

RECONNECT_S = "10"
"""A cluster that does not answer for so long is gone; Ray's own defaults are 60 and 30 s."""


class RayEngine(RemoteEngine):
    """Run calls on a Ray cluster.

    A process that is connected to Ray already uses that connection, and leaves it open.

    Args:
        workers: Worker processes of our own cluster, one for each usable core by default; on an
            existing cluster the most calls that run at once.
        address: ``ray://HOST:PORT`` or what else ``ray.init`` takes; when empty ``$RAY_ADDRESS``,
            and without that, or when it is ``local``, a cluster of our own.
        memory_max_bytes: Of our own cluster's workers and object store together; 60 % of what
            there is.

    Raises:
        ConfigError: Ray is not installed, or the cluster has other versions than we have.
        UnreachableError: nothing answers at the address, or no CPU came within 30 s.
    """

    def __init__(
        self, workers: int | None = None, *, address: str = "", memory_max_bytes: int | None = None
    ) -> None:
        connected = not address and "ray" in sys.modules and sys.modules["ray"].is_initialized()
        joined = address or os.environ.get("RAY_ADDRESS", "")
        if joined == "local":
            joined = ""
        found = "this process" if connected else joined
        count, memory = share_out("RayEngine", workers, memory_max_bytes, found)
        if connected:
            super().__init__(_ConnectedPeer(), workers)
            return
        options = {"address": joined, "workers": count, "memory_max_bytes": memory}
        worker_bytes = None if joined else _divide(memory, count)[1]
        super().__init__(start_agent(__name__, options), workers, worker_bytes)


def start_placer(
    report: Report, folder: str, *, address: str, workers: int, memory_max_bytes: int
) -> RayPlacer:
    """Start our own cluster or join one; runs in the agent."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not address:
        return _start(report, folder, workers, memory_max_bytes)
    for name in ("RAY_gcs_rpc_server_reconnect_timeout_s", "RAY_CLIENT_RECONNECT_GRACE_PERIOD"):
        os.environ.setdefault(name, RECONNECT_S)
    ray = import_extra("ray", "ray")
    try:
        _join(ray, address)
    except (ConnectionError, TimeoutError) as error:
        raise UnreachableError(
            f"No Ray cluster answers at {address}: {error}.",
            "Check the address; from outside the cluster it is ray://HOST:10001. A cluster with "
            "tokens answers only to RAY_AUTH_MODE=token with its RAY_AUTH_TOKEN.",
        ) from error
    except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(f"Ray cannot join the cluster at {address}: {error}") from error
    about = f"the Ray cluster at {address}"
    return RayPlacer(report, ray, _count_cpus(ray, about), about)


def _join(ray: Any, address: str) -> None:
    """Connect to a cluster.

    Each client of a ``ray://`` address gets a server process of its own, and one in some ten that a
    busy head forks among its threads dies before it begins: another try gets another one.

    Raises:
        ConnectionError, TimeoutError, RuntimeError, ValueError: Ray cannot.
    """
    for left in reversed(range(JOIN_TRIES)):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
            return
        except ConnectionAbortedError:
            if not left:
                raise


def _start(report: Report, folder: str, workers: int, memory_max_bytes: int) -> RayPlacer:
    store_bytes, worker_bytes = _divide(memory_max_bytes, workers)
    settings = WorkerSettings(tuple(sys.path), worker_bytes)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ.update(
        {
            WORKER_SETTINGS: msgspec.json.encode(settings).decode(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Calls see the GPUs that the caller sees, as on the other engines.
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
    )
    ray = import_extra("ray", "ray")
    stay_local(ray)
    ray.init(
        address="local",
        num_cpus=workers,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        object_store_memory=store_bytes,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(Path(folder, "ray")),
    )
    about = f"a Ray cluster of {describe_memory(workers, worker_bytes)}"
    return RayPlacer(report, ray, workers, about)


def _divide(memory_max_bytes: int, workers: int) -> tuple[int, int]:
    """Memory of the object store, and of each worker."""
    store_bytes = max(STORE_BYTES_MIN, int(STORE_SHARE * memory_max_bytes))
    return store_bytes, max(1, memory_max_bytes - store_bytes) // workers


def stay_local(ray: Any) -> None:
    """Make Ray listen on the loopback address, and start without what no call needs.

    Ray turns 127.0.0.1 into the address of the network card, except where it is not meant for
    clusters (macOS): that is what the constant says. The three services cost 4 s of the start.
    Nothing public does either, so that another version of Ray may not have what is replaced here.

    Raises:
        ConfigError: this version has not, or it knows no tokens.
    """
    if _numbers(ray.__version__) < _numbers(FIRST_VERSION):
        raise _unfit(ray, "it would let everybody in, without a token")
    constants = import_extra("ray._private.ray_constants", "ray")
    node = import_extra("ray._private.node", "ray").Node
    replaced: list[tuple[Any, str, Any]] = [(constants, "ENABLE_RAY_CLUSTER", False)]
    for name in ("start_api_server", "start_monitor", "start_log_monitor"):
        replaced.append((node, name, lambda *args, **options: None))
    for owner, name, value in replaced:
        if not hasattr(owner, name):
            raise _unfit(ray, f"it has no {owner.__name__}.{name}")
        setattr(owner, name, value)
    node._webui_url = None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _unfit(ray: Any, why: str) -> ConfigError:
    return ConfigError(
        f"Expected Ray {FIRST_VERSION} to {LAST_VERSION}, found {ray.__version__}: {why}.",
        f"pip install 'ray>={FIRST_VERSION},<={LAST_VERSION}'",
    )


def _count_cpus(ray: Any, about: str) -> int:
    """CPUs of an existing cluster, whose nodes all have our versions."""
    until = time.monotonic() + WORKERS_S_MAX
    while not (cpus := int(ray.cluster_resources().get("CPU", 0))):
        if time.monotonic() > until:
            raise UnreachableError(
                f"{about} had no CPU within {WORKERS_S_MAX:.0f} s.", "Start one: ray start"
            )
        time.sleep(0.2)
    strategy = import_extra("ray.util.scheduling_strategies", "ray").NodeAffinitySchedulingStrategy
    nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
    probe = ray.remote(make_version_probe())
    asked = {
        f"{address} ({node[:8]})": probe.options(
            num_cpus=0, max_retries=0, scheduling_strategy=strategy(node, soft=True)
        ).remote()
        for node, address in nodes.items()
    }
    try:
        told = ray.get(list(asked.values()), timeout=WORKERS_S_MAX)
    except ray.exceptions.GetTimeoutError as error:
        raise UnreachableError(f"{about} ran nothing within {WORKERS_S_MAX:.0f} s.") from error
    check_versions(about, dict(zip(asked, told, strict=True)))
    return cpus


class RayPlacer:
    """Calls as tasks of a driver; see `mlsched_pipelines.remotes.Placer`."""

    def __init__(self, report: Report, ray: Any, slots: int, about: str) -> None:
        self.slots, self.about = slots, about
        self._report, self._ray = report, ray
        self._held: dict[int, tuple[str, Any]] = {}
        self._perform = ray.remote(max_retries=0)(make_performer())
        self._under_way: dict[int, Any] = {}
        self._attempts = itertools.count()

    def put(self, ref: int, digest: str, data: bytes) -> None:
        """Put a pickled value into the object store."""
        self._held[ref] = (digest, self._ray.put(data))

    def drop(self, ref: int) -> None:
        """Let the object store forget a value when no call needs it."""
        self._held.pop(ref, None)

    def start(self, number: int, ref: int, work: bytes) -> None:
        """Start a call; its value is fetched by a worker that has not loaded it yet."""
        digest, held = self._held[ref]
        attempt = next(self._attempts)
        result = self._perform.remote(digest, [held], work)
        self._under_way[attempt] = (result, held)
        result.future().add_done_callback(lambda ended: self._tell(attempt, number, ended))

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()

    def _tell(self, attempt: int, number: int, future: Any) -> None:
        self._under_way.pop(attempt, None)
        lost, gone = _loss_errors(self._ray)
        try:
            self._report("ended", number, future.result())
        except lost as error:
            self._report("lost", number, 1, _first_line(error))
        except gone as error:
            self._report("gone", f"{self.about} is gone: {_first_line(error)}")
        except Exception as error:  # noqa: BLE001
            if isinstance(getattr(error, "cause", None), lost):
                self._report("lost", number, 1, _first_line(error))
            else:
                self._report("failed", number, f"{type(error).__name__}: {error}")


def make_performer() -> Callable[[str, list[Any], bytes], bytes]:
    """The function of our tasks; by value, so that Ray exports it once and looks nothing up."""

    def perform_call(digest: str, held: list[Any], work: bytes) -> bytes:
        import ray

        return perform(digest, lambda: cast(bytes, ray.get(held[0])), work)

    return perform_call


def _loss_errors(ray: Any) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """What says that a worker was lost, and what says that the cluster is."""
    found = ray.exceptions
    lost = (found.WorkerCrashedError, found.OutOfMemoryError, found.NodeDiedError)
    gone = (found.LocalRayletDiedError, found.RaySystemError, ConnectionError)
    return (*lost, found.ObjectLostError), gone


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class _ConnectedPeer(RayPlacer):
    """Ray in this process, as its user connected it."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        about = "the Ray cluster that this process is connected to"
        ray: Any = sys.modules["ray"]
        super().__init__(lambda *told: self._reports.put(told), ray, _count_cpus(ray, about), about)

    def receive(self, timeout_s: float | None) -> tuple[Any, ...] | None:
        """The next report; None when the time is over."""
        try:
            return self._reports.get(block=timeout_s != 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Leave the connection to its user."""
