"""``python -m mlsched.server``: start the service, unless one serves this state directory already.

Standard output and error are the service log; whoever starts this redirects them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from asyncio import FIRST_COMPLETED
from pathlib import Path

from mlsched.adapters.local import LocalNode
from mlsched.adapters.store import Store
from mlsched.config import Paths, Settings, load_settings
from mlsched.errors import MlschedError
from mlsched.runtime.controller import Controller, RetrySettings
from mlsched.runtime.driver import Driver
from mlsched.server.actuators import Launcher
from mlsched.server.gpu_events import EventRecord
from mlsched.server.inventories import Inventories
from mlsched.server.services import Service
from mlsched.server.sockets import SocketServer

IDLE_CHECK_S = 1.0
"""Between two looks at whether anything is left to do."""


def main() -> int:
    """Take the lock, serve until stopped or idle, leave; returns the exit code."""
    paths = Paths.from_environment()
    try:
        paths.create()
        settings = load_settings(paths.config_file)
        lock = _take_lock(paths.lock)
        if lock is None:
            return 0
        os.chdir("/")
        asyncio.run(_serve(paths, settings))
    except MlschedError as error:
        log(f"cannot start: {error.message} {error.hint}")
        return error.exit_status
    return 0


def log(line: str) -> None:
    """One line in the service log, with the time; a full disk keeps nobody from going on."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError):
        print(f"{stamp} {line}", file=sys.stderr, flush=True)  # noqa: T201 - this is the log


def _take_lock(path: Path) -> int | None:
    """The open lock file; None when another service holds it. Kept open for the process' life."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


async def _serve(paths: Paths, settings: Settings) -> None:
    store = Store(paths.database)
    retry = RetrySettings(
        int(settings.service.retry_delay_s * 1000), int(settings.service.retry_delay_s_max * 1000)
    )
    node = LocalNode(paths.jobs_dir, settings, on_problem=log)
    driver = Driver(Controller(retry=retry), store, Launcher(node, store), on_problem=log)
    node.emit = driver.post
    record = EventRecord(paths.state_dir / "gpu-events.json")
    inventories = Inventories(
        settings.node, settings.service.inventory_period_s, record, driver.post
    )
    service = Service(paths, settings, store, driver, inventories)
    server = SocketServer(service.operations, service.streams, log)
    driver.start()
    await _restore(store, driver)
    await inventories.read()
    await server.start(paths.socket)
    _link_socket(paths)
    log(f"serving {paths.state_dir} as process {os.getpid()}")
    watching = asyncio.ensure_future(inventories.run())
    watching.add_done_callback(_tell_end_of_watch)
    try:
        await _until_done(service, server, driver, settings.service.idle_exit_s)
    finally:
        service.stopping.set()
        watching.cancel()
        await server.close()
        for path in (paths.socket, paths.socket_link):
            path.unlink(missing_ok=True)
        await driver.close()
        await node.close()
        await store.close()
        log("stopped")


def _tell_end_of_watch(watching: asyncio.Future[None]) -> None:
    if not watching.cancelled() and watching.exception() is not None:
        log(f"the GPUs are not read any more: {watching.exception()!r}")


def _link_socket(paths: Paths) -> None:
    """Let other logins find the socket; on a full disk, those with this runtime directory do."""
    new = paths.socket_link.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(paths.socket)
        new.replace(paths.socket_link)
    except OSError as error:
        log(f"it cannot be found by other logins: {paths.socket_link}: {error.strerror}")


async def _restore(store: Store, driver: Driver) -> None:
    """Take over the jobs of the service before this one."""
    jobs = await store.open_jobs()
    wanted = {dependency.job_id for job in jobs for dependency in job.after}
    arrays = {job.array.array_id for job in jobs if job.array is not None}
    ended = await store.final_states(wanted) | await store.worst_ended(arrays)
    await driver.restore(jobs, ended)
    if jobs:
        log(f"took over {len(jobs)} jobs")


async def _until_done(
    service: Service, server: SocketServer, driver: Driver, idle_exit_s: float
) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stopping.set)
    ends = [loop.create_task(one.wait()) for one in (service.stopping, driver.broken)]
    busy_at = loop.time()
    try:
        while not (await asyncio.wait(ends, timeout=IDLE_CHECK_S, return_when=FIRST_COMPLETED))[0]:
            if driver.controller.jobs or server.connections:
                busy_at = loop.time()
            elif loop.time() - busy_at >= idle_exit_s:
                log("idle: nothing is queued or running")
                return
    finally:
        for end in ends:
            end.cancel()


if __name__ == "__main__":
    sys.exit(main())
