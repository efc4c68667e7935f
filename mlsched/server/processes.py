"""The controller of a cluster as a process: signals, its log, its watchdog, what it ends with."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
from typing import TextIO

from mlsched.adapters.kubernetes.configs import Access
from mlsched.errors import MlschedError
from mlsched.runtime.telling import tell_into
from mlsched.server.clusters import ClusterController, ClusterSettings

STUCK_S_MAX = 60.0
"""A loop that has not turned for so long hangs; a leader's lease has run out long before."""


def serve_cluster(access: Access, settings: ClusterSettings, log: TextIO) -> int:
    """Schedule a cluster until SIGTERM or SIGINT; returns the exit code.

    Everything is read anew at the next start, so that being killed at any moment loses nothing.
    """
    return asyncio.run(_serve(access, settings, log))


async def _serve(access: Access, settings: ClusterSettings, log: TextIO) -> int:
    tell = tell_into(log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tell(f"mlsched controller of {access.server} (context {access.context}) waits for the lease")
    watching = loop.create_task(_end_when_stuck(STUCK_S_MAX))
    try:
        await ClusterController(access, settings, tell).run(stop)
    except MlschedError as error:
        tell(f"ends: {error.message} {error.hint}".rstrip())
        return error.exit_status
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    tell("ends: it was asked to")
    return 0


async def _end_when_stuck(seconds: float) -> None:
    """End this process when its loop has not turned for so long, with all stacks in its log.

    The clock is a thread of the interpreter that needs nothing of Python, so that it also ends what
    hangs inside a library. Whoever started the process starts it again; no port is needed.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(seconds, exit=True)
            await asyncio.sleep(seconds / 4)
    finally:
        faulthandler.cancel_dump_traceback_later()
