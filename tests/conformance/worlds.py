"""Worlds in which jobs run, behind one small interface: what a store and an actuator must do.

A job of these tests runs for ``run_s`` seconds and ends with ``code``. What a world says of a job
is told in the same words by all: state, reason, exit code, attempt. How often each attempt was
really started is counted outside the controller: by the engine, by the processes themselves, by
the pods of the API server.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from mlsched.model.events import CancelRequested
from mlsched.model.jobs import EndCause, Job, Outcome, ResolvedDependency
from mlsched.runtime.controller import Controller, RetrySettings
from mlsched.sim.engines import Arrival, Engine
from mlsched.specs.documents import load_spec
from mlsched.testing.builders import node
from tests.controlplane import controllers
from tests.controlplane.controllers import Jobs
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.processes import Process
from tests.integration.service.conftest import Home

DEADLINE_S = 60.0


class Told(Struct, frozen=True):
    """What a world says of a job."""

    state: str
    reason: str = ""
    exit_code: int | None = None
    attempt: int = 0


class World(Protocol):
    """Somewhere to run jobs."""

    def submit(self, name: str, *, run_s: float, code: int = 0, **spec: Any) -> None:
        """Accept a job; it is durable when this returns."""
        ...

    def cancel(self, name: str) -> None:
        """Ask a job to end."""
        ...

    def told(self, name: str) -> Told:
        """What the record says of a job."""
        ...

    def restart(self) -> None:
        """Kill the controller and let another go on."""
        ...

    def until(self, probe: Callable[[], bool]) -> None:
        """Let time pass until something holds."""
        ...

    def starts(self, name: str) -> Mapping[int, int]:
        """How often each attempt was started, by its number; groups of a gang count as one."""
        ...


class SimWorld:
    """Virtual time; the engine plays store and actuator."""

    def __init__(self) -> None:
        retry = RetrySettings(delay_ms=100)
        self.engine = Engine([node("a", gpus=8)], controller=lambda: Controller(retry=retry))
        self.ids: dict[str, str] = {}

    def submit(self, name: str, *, run_s: float, code: int = 0, **spec: Any) -> None:
        loaded = load_spec({"command": ["none"], **spec})
        after = tuple(
            ResolvedDependency(self.ids[one.job], one.job, one.condition) for one in loaded.after
        )
        outcome = Outcome(EndCause.EXITED, code)
        now_ms = self.engine.now_ms
        arrival = Arrival(now_ms, name, loaded, int(run_s * 1000), outcome, after)
        self.ids[name] = self.engine.submit(arrival)
        self.engine.run(now_ms)

    def cancel(self, name: str) -> None:
        self.engine.schedule(self.engine.now_ms, CancelRequested(self.ids[name]))
        self.engine.run(self.engine.now_ms)

    def told(self, name: str) -> Told:
        job: Job = self.engine.jobs[self.ids[name]]
        reason = str(job.reason.code) if job.reason else ""
        return Told(str(job.state), reason, job.exit_code, job.attempt)

    def restart(self) -> None:
        self.engine.crash()

    def until(self, probe: Callable[[], bool]) -> None:
        while not probe():
            assert self.engine.next_ms is not None, "nothing is left to happen"
            self.engine.run(self.engine.next_ms)

    def starts(self, name: str) -> Mapping[int, int]:
        return self.engine.launches[self.ids[name]]


class LocalWorld:
    """The real service of one machine, with real processes."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.witness = home.path / "starts"

    def submit(self, name: str, *, run_s: float, code: int = 0, **spec: Any) -> None:
        script = (
            f"[ $MLSCHED_NODE_RANK = 0 ] && echo {name} $MLSCHED_ATTEMPT >> {self.witness};"
            f" sleep {run_s}; exit {code}"
        )
        document = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "MLJob",
            "metadata": {"name": name},
            "spec": {"command": ["sh", "-c", script], "cpusPerTask": "10m", **spec},
        }
        self.home.client().call(
            "submit", document=document, environment=self.home.env, workdir=str(self.home.path)
        )

    def cancel(self, name: str) -> None:
        self.home.client().call("cancel", jobs=[name])

    def told(self, name: str) -> Told:
        found = self.home.client().call("show", job=name)
        reason = found["reason"]["code"] if found["reason"] else ""
        return Told(found["state"], reason, found["exit_code"], found["attempt"])

    def restart(self) -> None:
        self.home.kill_service()

    def until(self, probe: Callable[[], bool]) -> None:
        _poll(probe)

    def starts(self, name: str) -> Mapping[int, int]:
        lines = self.witness.read_text().splitlines() if self.witness.exists() else []
        return Counter(int(line.split()[1]) for line in lines if line.split()[0] == name)


class KubernetesWorld:
    """A real API server with KWOK's nodes, and the controller as a process."""

    def __init__(self, kwok: Kwok, namespace: str, lease_s: float = 2.0) -> None:
        self.kwok = kwok
        self.jobs = Jobs(kwok.plane, namespace)
        self.words = ("--lease-seconds", str(lease_s))
        self.controller: Process = controllers.start(kwok.plane, *self.words)

    def submit(self, name: str, *, run_s: float, code: int = 0, **spec: Any) -> None:
        play = {"mlsched.io/run-for": f"{run_s}s", "mlsched.io/exit-code": str(code)}
        body = {"command": ["none"], "image": "none", "cpusPerTask": "10m", **spec}
        self.jobs.submit(name, play, **body)

    def cancel(self, name: str) -> None:
        self.jobs.cancel(name)

    def told(self, name: str) -> Told:
        found = self.jobs.status(name)
        state = found.get("state", "PENDING")
        return Told(state, found.get("reason", ""), found.get("exitCode"), found.get("attempt", 0))

    def restart(self) -> None:
        self.controller.stop()
        self.controller = controllers.start(self.kwok.plane, *self.words)

    def until(self, probe: Callable[[], bool]) -> None:
        _poll(probe)

    def starts(self, name: str) -> Mapping[int, int]:
        pods = [pod for pod in self.jobs.pods() if pod.startswith(f"{name}-")]
        return Counter(int(pod.split("-")[-2]) for pod in pods if pod.endswith("-0"))


def _poll(probe: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not probe():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s"
        time.sleep(0.05)
