"""A job becomes a launch: the document from which a supervisor starts one attempt.

Called by `nodes.LocalNode`; the supervisor reads the result and nothing else. The only effects are
that a port is probed and files are written.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mlsched.config import LogSettings
from mlsched.core.environments import (
    LOOPBACK,
    LaunchContext,
    build_environment,
    plan_processes,
)
from mlsched.errors import SpecError
from mlsched.model.jobs import Job
from mlsched.model.specs import StopSignal

PORT_MIN, PORT_MAX = 20_000, 30_000
"""Of rendezvous ports: above those of system services, and below those that Kubernetes (30,000) and
the kernel (32,768) hand out: there a connection of anybody may take a port before rank 0 does.

Source: ip_local_port_range in the kernel's ip-sysctl; --service-node-port-range of kube-apiserver.
"""

PORT_TRIES_MAX = 1_000

Launch = dict[str, Any]


def build_launch(job: Job, context: LaunchContext, logs: LogSettings) -> Launch:
    """The launch of ``job.attempt``: everything a supervisor needs, as plain JSON values.

    Raises:
        SpecError: there is nothing to run, or the early signal is none of this machine.
    """
    spec = job.spec
    script = f"{context.attempt_dir}/script" if spec.script else ""
    command = [*([script] if script else []), *spec.command]
    if not command:
        raise SpecError(f"{job.name} has neither a command nor a script.")
    processes = plan_processes(job)
    workdir = spec.workdir or spec.env.get("HOME") or "/"
    return {
        "job_id": job.id,
        "name": job.name,
        "attempt": job.attempt,
        "ranks": [
            {
                "rank": process.rank,
                "argv": command,
                "env": build_environment(job, process, context, len(processes)),
            }
            for process in processes
        ],
        "workdir": workdir,
        "time_limit_s": spec.time_limit_seconds,
        "grace_s": spec.grace_seconds,
        "signal": _signal(spec.signal),
        "memory_bytes": sum(group.memory_bytes for group in job.placements),
        "milli_cpus": sum(group.milli_cpus for group in job.placements),
        "log_bytes_max": logs.bytes_max,
        "log_files_max": logs.files_max,
        "output": expand_output(spec.output, job, workdir) if spec.output else "",
        "master_port": context.master_port,
    }


def _signal(notice: StopSignal | None) -> Launch | None:
    if notice is None:
        return None
    return {
        "number": signal_number(notice.name),
        "before_end_s": notice.before_end_seconds,
        "to": notice.to,
    }


def signal_number(name: str) -> int:
    """10 for ``USR1``, ``SIGUSR1`` or ``10``.

    Raises:
        SpecError: this machine has no such signal.
    """
    if name.isdecimal() and 0 < int(name) < signal.NSIG:
        return int(name)
    known = signal.Signals.__members__.get(f"SIG{name.upper().removeprefix('SIG')}")
    if known is None:
        raise SpecError(f"signal: expected a name such as TERM or USR1, found {name[:40]!r}.")
    return int(known)


def expand_output(pattern: str, job: Job, workdir: str) -> str:
    """The path that Slurm's file pattern means for this job, from its working directory.

    ``%j`` id, ``%J`` id, ``%x`` name, ``%A`` id of the array, ``%a`` index in it, ``%u`` user,
    ``%%`` a percent sign; other patterns stay as they are.
    """
    values = {
        "j": job.id,
        "J": job.id,
        "x": job.name.partition("[")[0],
        "A": job.array.array_id if job.array else job.id,
        "a": str(job.array.index) if job.array else "0",
        "u": job.user,
        "%": "%",
    }
    text = re.sub(r"%([jJxAau%])", lambda found: values[found[1]].replace("/", "-"), pattern)
    return os.path.normpath(Path(workdir) / text)


def choose_port(job_id: str, taken: Collection[int]) -> int:
    """A port for the ranks of one job to meet at: the same for a job while it is free.

    Args:
        taken: Ports of other jobs, which may not listen on them yet.

    Raises:
        OSError: none is free.
    """
    digest = hashlib.blake2b(job_id.encode(), digest_size=8).digest()
    first = int.from_bytes(digest, "big")
    for step in range(PORT_TRIES_MAX):
        port = PORT_MIN + (first + step) % (PORT_MAX - PORT_MIN)
        if port not in taken and _is_free(port):
            return port
    raise OSError(f"no free port between {PORT_MIN} and {PORT_MAX}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
