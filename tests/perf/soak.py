"""A controller of a cluster for a long time: what it keeps of jobs that have come and gone.

Rounds of jobs, arrays, gangs and pods of others run to their ends on a real API server with KWOK's
nodes, and are deleted. Memory that grows from round to round after the first ones is a leak.

    python tests/perf/soak.py [ROUNDS]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.controlplane import binaries
from tests.controlplane.controllers import Jobs, install, start
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ControlPlane
from tests.controlplane.processes import Process

NODES, JOBS, PODS = 50, 400, 100
ROUND_S_MAX = 300.0
RUN_FOR = {"mlsched.io/run-for": "0.1s"}
KINDS: tuple[dict[str, Any], ...] = ({}, {"gpusPerNode": 2}, {"nodes": 3}, {"array": "0-4"})


def mljob(round_: int, index: int) -> dict[str, Any]:
    """A job of one of several kinds; names come again, as those of users do."""
    spec = {"command": ["none"], "image": "none", **KINDS[index % len(KINDS)]}
    name = f"j-{round_ % 3}-{index}"
    head = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob"}
    return {**head, "metadata": {"name": name, "annotations": RUN_FOR}, "spec": spec}


def foreign(round_: int, index: int) -> dict[str, Any]:
    """A pod of somebody else."""
    container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": "1"}}}
    metadata = {"name": f"p-{round_ % 3}-{index}", "annotations": RUN_FOR}
    return {"metadata": metadata, "spec": {"schedulerName": "mlsched", "containers": [container]}}


def resident_mb(process: Process) -> float:
    """Resident memory now."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [one for one in text.splitlines() if one.startswith("VmRSS:")]
    return int(line.split()[1]) / 1000


def have_all_ended(jobs: Jobs) -> bool:
    """Whether all jobs and pods of others have."""
    pods = jobs.pods().values()
    return jobs.have_ended() and all(pod["status"]["phase"] == "Succeeded" for pod in pods)


def wait(what: str, plane: ControlPlane, probe: Any, *needed: Process) -> None:
    """Until it is so; an error when a process ended or it takes too long."""
    plane.processes.wait_until(what, probe, *needed, seconds=ROUND_S_MAX, every_s=0.5)


def run_round(jobs: Jobs, round_: int, controller: Process) -> None:
    """Everything once: made, run, deleted."""
    plane = jobs.plane
    plane.create_all(jobs.path, [mljob(round_, index) for index in range(JOBS)])
    plane.create_all(jobs.pods_path, [foreign(round_, index) for index in range(PODS)])
    wait("all has ended", plane, lambda: have_all_ended(jobs), controller)
    failed = [name for name, state in jobs.states().items() if state != "SUCCEEDED"]
    if failed:
        raise RuntimeError(f"expected all jobs to succeed, found {failed[:3]}")
    plane.api("DELETE", jobs.path)
    plane.api("DELETE", jobs.pods_path)
    wait("all is gone", plane, lambda: not jobs.pods(), controller)


def main(words: list[str]) -> None:
    """Run the rounds; one line each, with what the controller takes after it."""
    reason = binaries.missing("etcd", "kube-apiserver", "kube-controller-manager", "kwok")
    if reason is not None:
        print(json.dumps({"what": "soak", "left_out": reason}))
        return
    with ControlPlane(controller_manager=True, lifted=True) as plane:
        kwok = Kwok(plane)
        kwok.add_nodes(NODES, gpus=8)
        kwok.add_nodes(NODES, gpus=0, labels={"mlsched.io/layer": "data"}, prefix="data-")
        install(plane)
        controller = start(plane)
        jobs = Jobs(plane, "default")
        for round_ in range(int(words[0]) if words else 12):
            begun = time.monotonic()
            run_round(jobs, round_, controller)
            figures = {"memory_mb": round(resident_mb(controller), 1),
                       "took_s": round(time.monotonic() - begun, 1)}  # fmt: skip
            print(json.dumps({"what": f"round {round_} of the soak", **figures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
