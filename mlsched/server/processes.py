"""The controller of a cluster as a process: signals, its log, and what it ends with."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from typing import TextIO

from mlsched.adapters.kubernetes.configs import Access
from mlsched.errors import MlschedError
from mlsched.server.clusters import ClusterController, ClusterSettings


def serve_cluster(access: Access, settings: ClusterSettings, log: TextIO) -> int:
    """Schedule a cluster until SIGTERM or SIGINT; returns the exit code.

    Everything is read anew at the next start, so that being killed at any moment loses nothing.
    """
    return asyncio.run(_serve(access, settings, log))


async def _serve(access: Access, settings: ClusterSettings, log: TextIO) -> int:
    def tell(line: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log.write(f"{now} {line}\n")
        log.flush()

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tell(f"mlsched controller of {access.server} (context {access.context}) waits for the lease")
    try:
        await ClusterController(access, settings, tell).run(stop)
    except MlschedError as error:
        tell(f"ends: {error.message} {error.hint}".rstrip())
        return error.exit_status
    tell("ends: it was asked to")
    return 0
