"""The processes of a gang that is one engine's cluster: who each is, and where the others are.

A job of mlsched starts the same command on each of its nodes. Rank 0 runs the scheduler (Dask) or
head (Ray), one worker and the driver; each other rank is a worker:

    rank 0: driver ── helpers: scheduler and worker, or head     rank 1..: worker
               └── engine, which joins the cluster as any other client does

A helper ends when its standard input does, so with the driver, whatever ends that; workers end with
the scheduler or head. What keeps others out is the token that all processes of an attempt share.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct

from mlsched.errors import ConfigError, UnreachableError
from mlsched_pipelines.folders import make_held_folder
from mlsched_pipelines.starting import find_short_root

ENGINES = ("dask", "ray")
TOKEN_VARIABLE = "MLSCHED_GANG_TOKEN"
LOOPBACK = "127.0.0.1"
FOLDER_PREFIX = "mlschedm"
"""Of the folders of members; as long as that of other folders of ours, for the sake of sockets."""

NAME_S_MAX = 120.0
"""A node's name is served once its pod has an address."""

MEMBERS_S_MAX = 600.0
"""Until all members have joined: some nodes may have to fetch an image first."""


class Member(Struct, frozen=True):
    """One process of a gang."""

    rank: int
    size: int
    head: str
    """Address of rank 0."""
    port: int
    """Where the scheduler or head listens, and nothing else."""
    address: str
    """Of this member, as the others reach it."""
    cpus: int = 1
    memory_max_bytes: int = 0
    """Of this member; 0 for no bound."""


def read_member(environ: Mapping[str, str], cpus: int = 1, memory_max_bytes: int = 0) -> Member:
    """Who this process is, from what mlsched set for it; a job of one process has no rank.

    Raises:
        ConfigError: it is no process of a gang with a token.
        UnreachableError: rank 0 has no address within `NAME_S_MAX`.
    """
    rank, size = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Member(rank, size, LOOPBACK, 0, LOOPBACK, cpus, memory_max_bytes)
    read_token(environ)
    port = int(environ["MASTER_PORT"])
    head = _resolve(environ["MASTER_ADDR"])
    address = head if rank == 0 else _own_address(head, port)
    return Member(rank, size, head, port, address, cpus, memory_max_bytes)


def read_token(environ: Mapping[str, str]) -> str:
    """The secret of this attempt.

    Raises:
        ConfigError: there is none.
    """
    token = environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise ConfigError(
            f"A cluster of several members needs {TOKEN_VARIABLE}, which is not set here.",
            "Set gangToken: true in the job, or use 'mlsched pipeline submit', which does.",
        )
    return token


def _resolve(name: str) -> str:
    until = time.monotonic() + NAME_S_MAX
    while True:
        try:
            return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]
        except OSError as error:
            if time.monotonic() > until:
                raise UnreachableError(
                    f"Rank 0 has no address: {name!r} is not known here: {error}.",
                    "See the pod of rank 0, and the cluster's DNS.",
                ) from error
        time.sleep(0.2)


def _own_address(head: str, port: int) -> str:
    """The address from which rank 0 is reached; nothing is sent."""
    family = socket.AF_INET6 if ":" in head else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((head, port))
        return str(probe.getsockname()[0])


def host_port(host: str, port: int) -> str:
    """``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def private_folder() -> Iterator[str]:
    """A directory of this process, short enough for sockets; it does not outlive the process long.

    It may hold the key of an attempt: what killed members left is removed by the next ones.
    """
    folder, handle = make_held_folder(FOLDER_PREFIX, find_short_root())
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def forget_settings(prefix: str) -> None:
    """Remove a framework's variables: what a shell or an outer cluster left is not meant here."""
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]
