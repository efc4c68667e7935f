"""A controller with one node, and short words for jobs that wait for others."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.model.commands import SaveJob, Step
from mlsched.model.events import (
    AttemptEnded,
    Event,
    Instant,
    NodeObserved,
)
from mlsched.model.jobs import (
    ArrayMembership,
    EndCause,
    Job,
    JobState,
    Outcome,
    ResolvedDependency,
)
from mlsched.runtime.controller import Controller
from mlsched.testing.builders import job, node

DONE = Outcome(EndCause.EXITED, 0)
BROKEN = Outcome(EndCause.EXITED, 1)


class World:
    """A controller with one node, a clock that only tests move, and the last saved records."""

    def __init__(self, gpus: int = 2) -> None:
        self.controller = Controller()
        self.now_ms = 0
        self.saved: dict[str, Job] = {}
        self.send(NodeObserved(node("a", gpus)))

    def send(self, *events: Event) -> Step:
        step = self.controller.step(events, Instant(self.now_ms, 1_000_000 + self.now_ms))
        for command in step.commands:
            if isinstance(command, SaveJob):
                self.saved[command.job.id] = command.job
        return step

    def end(self, name: str, outcome: Outcome = DONE) -> Step:
        return self.send(AttemptEnded(name, self.saved[name].attempt, outcome))

    def state(self, name: str) -> JobState:
        return self.saved[name].state


def after(name: str, seq: int, *others: str, condition: str = "ok") -> Job:
    needs = tuple(ResolvedDependency(other, other, condition) for other in others)  # type: ignore[arg-type]
    return replace(job(name, seq), after=needs)


def element(index: int, parallel: int = 0, size: int = 3) -> Job:
    made = job(f"arr[{index}]", index + 1)
    return replace(made, array=ArrayMembership("arr-id", "arr", index, size, parallel))
