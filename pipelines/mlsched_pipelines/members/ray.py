"""The members of a Ray cluster: a head with workers on rank 0, a node with workers on each other.

Ray takes nobody in without the token. Its nodes run without dashboard, autoscaler and log monitor,
which no call needs, and listen on the address of their member.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlsched.errors import UnreachableError
from mlsched_pipelines.engines.ray import STORE_BYTES_MIN, STORE_SHARE, stay_local
from mlsched_pipelines.members import (
    MEMBERS_S_MAX,
    Member,
    forget_settings,
    host_port,
    private_folder,
    read_token,
)
from mlsched_pipelines.members.helpers import await_end, tell_ready
from mlsched_pipelines.remotes import import_extra

HELPERS = ("head",)
"""What runs beside the driver on rank 0."""

STORE_BYTES = 256 << 20
"""Of the object store, where the member has no bound on memory: calls and results pass through."""

_LOOK_EVERY_S = 0.5
_MISSES_MAX = 3
"""Looks in a row without an answer, after which the head is gone."""

_LOOK_S_MAX = 2.0


def configure(member: Member, folder: str) -> str:
    """Let a client in this process and its children into the cluster; returns the engine's name.

    Raises:
        ConfigError: there is no token.
    """
    token = read_token(os.environ)
    forget_settings("RAY_")
    os.environ |= {
        "RAY_ADDRESS": _address(member),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else Ray takes a loopback address for that of the network card.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": folder,
    }
    return "ray"


def run(role: str, member: Member, handle: int = -1) -> int:
    """Run a head or a worker until the cluster ends; returns the exit code.

    Args:
        role: One of `HELPERS`, or ``worker``.
        member: Who this process is.
        handle: Where a scheduler or head tells that all members have joined.
    """
    asked = threading.Event()
    if role == "worker":
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
    with private_folder() as folder:
        configure(member, folder)
        stay_local(import_extra("ray", "ray"))
        if role == "worker":
            _await_head(member, asked)
        node = _start_node(member, folder, head=role == "head")
        # In place of Ray's own: from now on rank 0 decides when it ends.
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            if role == "head":
                _serve_head(node, member, asked, handle)
            else:
                _serve_worker(node, member)
        finally:
            with suppress(Exception):
                node.kill_all_processes(check_alive=False, allow_graceful=False)
    return 0


def _start_node(member: Member, folder: str, *, head: bool) -> Any:
    """Start Ray's processes of this member; they end with this process."""
    parameters = import_extra("ray._private.parameter", "ray").RayParams(
        num_cpus=member.cpus,
        num_gpus=0,
        node_ip_address=member.address,
        object_store_memory=_store_bytes(member),
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        temp_dir=str(Path(folder, "ray")),
    )
    if head:
        parameters.gcs_server_port = member.port
    else:
        parameters.gcs_address = _address(member)
    return import_extra("ray._private.node", "ray").Node(parameters, head=head)


def _store_bytes(member: Member) -> int:
    if not member.memory_max_bytes:
        return STORE_BYTES
    return max(STORE_BYTES_MIN, int(STORE_SHARE * member.memory_max_bytes))


def _serve_head(node: Any, member: Member, asked: threading.Event, handle: int) -> None:
    """Tell when all nodes are there; then wait for the driver."""

    def wait() -> None:
        await_end()
        asked.set()

    threading.Thread(target=wait, daemon=True).start()
    client = node.get_gcs_client()
    while not asked.wait(_LOOK_EVERY_S) and len(_alive(client)) < member.size:
        continue
    tell_ready(handle)
    while not asked.wait(_LOOK_EVERY_S) and not node.dead_processes():
        continue


def _alive(client: Any) -> list[Any]:
    state = import_extra("ray.core.generated.gcs_pb2", "ray").GcsNodeInfo.GcsNodeState.ALIVE
    return [one for one in client.get_all_node_info().values() if one.state == state]


def _serve_worker(node: Any, member: Member) -> None:
    """Wait until the head is gone, or something of ours is."""
    misses = 0
    while misses < _MISSES_MAX:
        time.sleep(_LOOK_EVERY_S)
        misses = 0 if _answers(member) else misses + 1
        if dead := node.dead_processes():
            # A node that cannot reach its head ends; what became of the head is told then.
            if _answers(member):
                raise UnreachableError(f"Ray's process {dead[0][0]} of rank {member.rank} ended.")
            return


def _await_head(member: Member, asked: threading.Event) -> None:
    until = time.monotonic() + MEMBERS_S_MAX
    while not _answers(member):
        if asked.wait(_LOOK_EVERY_S):
            sys.exit(128 + signal.SIGTERM)
        if time.monotonic() > until:
            raise UnreachableError(
                f"No head of Ray answers at {_address(member)} within {MEMBERS_S_MAX:.0f} s.",
                "See the output of rank 0.",
            )


def _answers(member: Member) -> bool:
    """Whether something listens at the head's port."""
    try:
        socket.create_connection((member.head, member.port), _LOOK_S_MAX).close()
    except OSError:
        return False
    return True


def _address(member: Member) -> str:
    return host_port(member.head, member.port)
