"""Starting engines by a word or an address, and the agent processes that remote engines have."""

from __future__ import annotations

import inspect
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import IO, Any, cast

from mlsched.errors import (
    ConfigError,
    MlschedError,
    PipelineError,
    UnreachableError,
    error_from_dict,
)
from mlsched.units import format_bytes
from mlsched_pipelines.engines import Engine, count_cores
from mlsched_pipelines.memory import default_budget_bytes

START_S_MAX = 300.0
"""Ray needs 6 to 12 s on two cores, and four times 30 s where processes that it starts for a client
die; what takes longer than this hangs."""

LEAVE_S_MAX = 5.0
"""An agent that is told to end may take this long to leave a cluster, then it is killed."""

WORKER_BYTES_MIN = 64 << 20
"""A process with Arrow, and Dask or Ray, takes about so much before its first task."""

FOLDER_CHARS_MAX = 30
"""Ray puts sockets 70 characters below its folder, and the kernel allows 107 in all.

Source: unix(7), sun_path.
"""

_ENGINES = {"local": "LocalEngine", "dask": "DaskEngine", "ray": "RayEngine"}
"""By name, since engines import this module for their agents."""

_ADDRESS = re.compile(r"^(dask|tls|ray)://(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})$")


ENGINES_HINT = "There are: local, dask, ray, dask://HOST:PORT, tls://HOST:PORT, ray://HOST:PORT."


def is_engine(text: str) -> bool:
    """Whether a text is the name of an engine, or has the form of an engine's address."""
    return text in _ENGINES or _ADDRESS.match(text) is not None


def start_engine(
    text: str, *, workers: int | None = None, memory_max_bytes: int | None = None
) -> Engine:
    """Start the engine that a word or an address names; close it, or use it as a context manager.

    Args:
        text: ``local`` (threads), ``dask`` or ``ray`` (processes of this machine; plain ``ray``
            joins the cluster at ``$RAY_ADDRESS`` when that is set), ``dask://HOST:PORT`` or
            ``tls://HOST:PORT`` (a Dask scheduler; certificates come from Dask's configuration), or
            ``ray://HOST:PORT`` (Ray's client address).
        workers: Calls that run at once: workers to start, or a limit on an existing cluster.
        memory_max_bytes: Of all workers of a started cluster together; by default that of a run,
                `mlsched_pipelines.memory.default_budget_bytes`.

    Raises:
        ConfigError: there is no such engine, or its package is not installed.
        UnreachableError: nothing answers at the address.
    """
    found = _ADDRESS.match(text)
    name, address = (found[1].replace("tls", "dask"), text) if found else (text, "")
    if name == "local" and memory_max_bytes is not None:
        raise ConfigError(
            "The engine 'local' runs in this process and has no bound on memory of its own.",
            "Leave memory_max_bytes away, or use the engine 'dask' or 'ray'.",
        )
    if name not in _ENGINES:
        raise ConfigError(f"Expected an engine, found {text!r}.", ENGINES_HINT)
    make = getattr(import_module(f"mlsched_pipelines.engines.{name}"), _ENGINES[name])
    if name == "local":
        return cast(Engine, make(workers))
    return cast(Engine, make(workers, address=address, memory_max_bytes=memory_max_bytes))


def share_out(
    engine: str, workers: int | None, memory_max_bytes: int | None, address: str
) -> tuple[int, int]:
    """Workers and their memory together, for a cluster of our own; both checked.

    Raises:
        PipelineError: fewer than one worker, or more than there is memory for.
        ConfigError: a memory limit for a cluster that is not ours.
    """
    found = count_cores() if workers is None else workers
    if found < 1:
        raise PipelineError(f"{engine}: expected at least one worker, found {found}.")
    if address and memory_max_bytes is not None:
        raise ConfigError(
            f"The cluster at {address} has memory limits of its own.",
            "Leave memory_max_bytes away.",
        )
    memory_bytes = memory_max_bytes or default_budget_bytes()
    if not address and memory_bytes // found < WORKER_BYTES_MIN:
        raise PipelineError(
            f"{engine}: {format_bytes(memory_bytes)} for {found:,} workers are "
            f"{format_bytes(memory_bytes // found)} each, and one needs "
            f"{format_bytes(WORKER_BYTES_MIN)}.",
            f"Take at most {max(1, memory_bytes // WORKER_BYTES_MIN):,} workers, or more memory.",
        )
    return found, memory_bytes


def make_version_probe() -> Callable[[], dict[str, str]]:
    """A function that tells a process's versions; it travels by value, as workers may lack us."""

    def probe() -> dict[str, str]:
        import sys
        from importlib import metadata

        found = {"python": "{}.{}".format(*sys.version_info)}
        for name in ("pyarrow", "mlsched"):
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "not installed"
        return found

    return probe


def check_versions(cluster: str, found: dict[str, dict[str, str]]) -> None:
    """All workers have our versions: else bits would differ and pickles would not load.

    Raises:
        ConfigError: one has not; it names both.
    """
    ours = make_version_probe()()
    for worker, theirs in sorted(found.items()):
        for name, version in ours.items():
            if theirs.get(name) != version:
                raise ConfigError(
                    f"Worker {worker} of {cluster} has {name} {theirs.get(name)}, here it is "
                    f"{version}.",
                    "Install the same versions on both sides.",
                )


class AgentPeer:
    """The cluster behind an agent process; see `mlsched_pipelines.remotes.Peer`."""

    def __init__(self, keeper: subprocess.Popen[bytes], link: Connection, log: IO[bytes]) -> None:
        self._keeper, self._link, self._log = keeper, link, log
        self.slots, self.about = 0, "The cluster"
        self.worker_bytes: int | None = None
        """Memory of the worker that has least, where a cluster tells."""

    def await_ready(self) -> None:
        """Wait until the agent has its cluster.

        Raises:
            MlschedError: what the agent met with.
            UnreachableError: it did not come up; with the last lines of its log.
        """
        why = "it ended"
        with suppress(EOFError, OSError):
            report = self.receive(START_S_MAX)
            if report is not None and report[0] == "ready":
                _, self.slots, self.about, self.worker_bytes = report
                return
            if report is not None:
                raise error_from_dict(report[1])
            why = f"nothing came of it within {START_S_MAX:.0f} s"
        self._log.seek(0)
        last = self._log.read()[-2000:].decode(errors="replace").strip() or "it printed nothing"
        raise UnreachableError(f"The agent process of the engine did not come up: {why}; {last}")

    def put(self, ref: int, digest: str, data: bytes) -> None:
        """Send a pickled value."""
        self._link.send(("put", ref, digest, data))

    def drop(self, ref: int) -> None:
        """Forget a value."""
        self._link.send(("drop", ref))

    def start(self, number: int, ref: int, work: bytes) -> None:
        """Start a call."""
        self._link.send(("start", number, ref, work))

    def receive(self, timeout_s: float | None) -> tuple[Any, ...] | None:
        """The next report; None when the time is over."""
        return cast(tuple[Any, ...], self._link.recv()) if self._link.poll(timeout_s) else None

    def close(self) -> None:
        """End the agent, its cluster and the keeper, and wait until they are gone."""
        assert self._keeper.stdin is not None
        # They are told, since a child that the caller forked keeps both open.
        with suppress(OSError), socket.socket(fileno=os.dup(self._link.fileno())) as link:
            link.shutdown(socket.SHUT_RDWR)
        self._link.close()
        with suppress(OSError):
            self._keeper.stdin.write(b"end")
        with suppress(OSError):
            self._keeper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(4 * LEAVE_S_MAX)
        self._log.close()


def start_agent(module: str, options: dict[str, Any]) -> AgentPeer:
    """Start an agent process that runs ``module.start_placer(report, folder, **options)``.

    The caller's environment, directory and ``sys.path`` are the agent's too.

    Raises:
        MlschedError: what the agent met with when it started.
    """
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile()  # noqa: SIM115
    with theirs:
        job = json.dumps(
            {
                "path": [os.path.abspath(entry) for entry in sys.path],  # noqa: PTH100
                "module": module,
                "options": options,
                "folder": make_private_folder(),
                "link": theirs.fileno(),
                "caller": os.getpid(),
                "leave_s_max": LEAVE_S_MAX,
            }
        )
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", KEEPER, job],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    peer = AgentPeer(keeper, Connection(ours.detach()), log)
    try:
        peer.await_ready()
    except BaseException:
        peer.close()
        raise
    return peer


def make_private_folder() -> str:
    """A private directory whose path is short enough for sockets."""
    return tempfile.mkdtemp(prefix="mlsched-", dir=find_short_root())


def find_short_root() -> str:
    """Where temporary folders are whose paths are short enough for sockets."""
    roots = [tempfile.gettempdir(), "/tmp"]
    return next(root for root in roots if len(root) <= FOLDER_CHARS_MAX)


def _keep() -> None:
    """The keeper's program: runs the agent, and when it or the caller ends, kills its session.

    Its source is run alone by a bare interpreter, so it starts in 20 ms. It looks at its parent
    too, since a child that the caller forked holds the caller's end of the pipe open.
    """
    import contextlib
    import json
    import os
    import pathlib
    import select
    import shutil
    import subprocess
    import sys
    import time

    def list_session(leader: int) -> list[int]:
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
                if int(session) == leader and state not in "ZX":
                    found.append(int(path.parent.name))
        return found

    job = json.loads(sys.argv[1])
    start = (
        "import json, sys; found = sys.path[:]; job = json.loads(sys.argv[1]);"
        "sys.path[:] = job['path']; from mlsched_pipelines.starting import serve_agent;"
        "serve_agent(job, found)"
    )
    agent = subprocess.Popen(
        [sys.executable, "-P", "-c", start, sys.argv[1]],
        stdin=subprocess.DEVNULL,
        pass_fds=[job["link"]],
        start_new_session=True,
    )
    os.close(job["link"])
    while agent.poll() is None and os.getppid() == job["caller"]:
        if select.select([0], [], [], 0.1)[0]:
            break
    with contextlib.suppress(subprocess.TimeoutExpired):
        agent.wait(job["leave_s_max"])
    with contextlib.suppress(OSError):
        os.killpg(agent.pid, 9)
    over = time.monotonic() + job["leave_s_max"]
    while (left := list_session(agent.pid)) and time.monotonic() < over:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, 9)
        agent.poll()
        time.sleep(0.01)
    shutil.rmtree(job["folder"], ignore_errors=True)


KEEPER = f"{inspect.getsource(_keep)}\n_keep()"
"""Read once, since the file may be another one by the time that an engine is started."""


def serve_agent(job: dict[str, Any], path: list[str]) -> None:
    """The agent's program: start the cluster or join it, then pass on calls until told to end.

    Args:
        job: What `start_agent` wrote.
        path: ``sys.path`` of a fresh interpreter here.
    """
    added = [entry for entry in job["path"] if entry not in path]
    inherited = [entry for entry in [os.environ.get("PYTHONPATH", "")] if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join([*added, *inherited])
    link, lock = Connection(job["link"]), threading.Lock()

    def report(*told: Any) -> None:
        with lock, suppress(OSError):
            link.send(told)

    try:
        module = import_module(job["module"])
        placer = module.start_placer(report, job["folder"], **job["options"])
    except MlschedError as error:
        report("error", error.to_dict())
        os._exit(1)
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)
    report("ready", placer.slots, placer.about, getattr(placer, "worker_bytes", None))
    try:
        while True:
            word, *told = link.recv()
            getattr(placer, word)(*told)
    except (EOFError, OSError):
        placer.close()
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        report("gone", f"{placer.about} is gone: {error}.")
    finally:
        # What is left of a framework would print and wait; the keeper ends it all.
        os._exit(0)
