"""Forks controllers, each a process of its own, from one that has imported everything already.

``python -m tests.controlplane.spawner`` reads one JSON request a line and answers each with one
line. Starting a controller takes 10 ms so, in place of the second that the imports take. All
controllers die with it, and it with whoever holds its standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from mlsched.adapters.kubernetes.configs import load_access
from mlsched.server.clusters import ClusterSettings
from mlsched.server.processes import serve_cluster

PR_SET_PDEATHSIG = 1


def start(request: dict[str, Any]) -> int:
    """A controller as ``mlsched controller`` would be; its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        access = load_access(request["kubeconfig"])
        settings = msgspec.convert(request["settings"], ClusterSettings)
        with Path(request["log"]).open("a", encoding="utf-8") as text:
            code = serve_cluster(access, settings, text)
    finally:
        os._exit(code)


def main() -> None:
    """Serve until standard input ends."""

    statuses: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "kubeconfig" in request:
            answer["pid"] = start(request)
        else:
            pid = request["poll"]
            if pid not in statuses and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                statuses[pid] = os.waitstatus_to_exitcode(ended[1])
            answer["status"] = statuses.get(pid)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
