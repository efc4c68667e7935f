"""The members of a Dask cluster: a scheduler on rank 0, a worker on every rank, all over TLS."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from mlsched_pipelines.engines.dask import use_own_settings
from mlsched_pipelines.members import (
    Member,
    forget_settings,
    host_port,
    private_folder,
    read_token,
)
from mlsched_pipelines.members.certificates import write_certificate
from mlsched_pipelines.members.helpers import await_end, tell_ready
from mlsched_pipelines.remotes import import_extra

HELPERS = ("scheduler", "worker")
"""What runs beside the driver on rank 0."""

_LOOK_EVERY_S = 0.05
_ALIVE = ("init", "running", "paused")
"""States of a worker that has a scheduler."""

_ROLES = ("CLIENT", "SCHEDULER", "WORKER")


def configure(member: Member, folder: str) -> str:
    """Let a client in this process and its children into the cluster; returns its address.

    Raises:
        ConfigError: the packages distributed or cryptography are not installed.
    """
    # Dask reads its settings when it is imported, so that comes after them.
    if find_spec("distributed") is None:
        import_extra("distributed", "dask")
    key, certificate = write_certificate(read_token(os.environ), folder)
    forget_settings("DASK_")
    os.environ["DASK_CONFIG"] = folder
    tls = {"CA_FILE": certificate}
    for role in _ROLES:
        tls |= {f"{role}__CERT": certificate, f"{role}__KEY": key}
    os.environ |= {f"DASK_DISTRIBUTED__COMM__TLS__{name}": path for name, path in tls.items()}
    os.environ["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] = "True"
    return _address(member)


def run(role: str, member: Member, handle: int = -1) -> NoReturn:
    """Run a scheduler or a worker until the cluster ends; the process ends with it.

    Args:
        role: One of `HELPERS`, or ``worker``.
        member: Who this process is.
        handle: Where a scheduler tells that all members have joined.
    """
    with private_folder() as folder:
        configure(member, folder)
        use_own_settings(folder)
        import_extra("distributed", "dask")
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if role == "scheduler":
            asyncio.run(_serve_scheduler(member, handle))
        else:
            asyncio.run(_serve_worker(member, folder))
        _leave(folder, 0)


def _leave(folder: str, code: int) -> NoReturn:
    """End this process at once: Dask would wait for calls whose results nobody wants."""
    shutil.rmtree(folder, ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


async def _serve_scheduler(member: Member, handle: int) -> None:
    distributed = import_extra("distributed", "dask")
    scheduler = distributed.Scheduler(
        host=member.head,
        port=member.port,
        protocol="tls",
        security=distributed.Security(),
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    )
    async with scheduler:
        ended = asyncio.ensure_future(asyncio.to_thread(await_end))
        while len(scheduler.workers) < member.size and not ended.done():
            await asyncio.sleep(_LOOK_EVERY_S)
        tell_ready(handle)
        await ended


async def _serve_worker(member: Member, folder: str) -> None:
    distributed = import_extra("distributed", "dask")
    worker = distributed.Worker(
        _address(member),
        name=f"rank-{member.rank}",
        host=member.address,
        protocol="tls",
        security=distributed.Security(),
        nthreads=member.cpus,
        memory_limit=member.memory_max_bytes or None,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        local_directory=str(Path(folder, "worker")),
    )
    if member.rank:
        signal.signal(signal.SIGTERM, lambda *_: _leave(folder, 128 + signal.SIGTERM))
    await worker
    # From now on rank 0 decides when it ends.
    signal.signal(signal.SIGTERM, lambda *_: None)
    while worker.status.name in _ALIVE:
        await asyncio.sleep(_LOOK_EVERY_S)
    _leave(folder, 0)


def _address(member: Member) -> str:
    return f"tls://{host_port(member.head, member.port)}"
