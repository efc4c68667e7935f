"""The asyncio shell around the controller: pump events in, make records durable, then act.

A step is taken at once when events arrive. Its commands go through the outbox: all records of the
steps that wait are made durable in one transaction, and only then is anything launched or stopped.
When the store is full the outbox keeps what it has and tries again: nothing is lost, nothing acts
before its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Generator, Iterable

from mlsched.errors import InvariantError, TemporaryError
from mlsched.model.commands import Command, LaunchAttempt, SaveJob, StopAttempt
from mlsched.model.events import (
    AttemptEnded,
    Event,
    Instant,
    JobRestored,
    TimerFired,
)
from mlsched.model.jobs import EndCause, Job, JobState, Outcome
from mlsched.runtime.controller import Controller
from mlsched.runtime.ports import Actuator, Clock, JobStore
from mlsched.runtime.tasks import Tasks


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> Instant:
        """Monotonic and wall clock, in milliseconds."""
        return Instant(time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000)


class Driver:
    """Runs one controller against one store and one actuator.

    Args:
        batch_max: Records that are saved at once before what they allow is done: all that wait,
            where one transaction takes them; few, where each is a request of its own.
        on_problem: Called with one line when something had to be put off, for the service log.
    """

    def __init__(
        self,
        controller: Controller,
        store: JobStore,
        actuator: Actuator,
        *,
        clock: Clock | None = None,
        batch_max: int = 1 << 30,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.controller = controller
        self.broken = asyncio.Event()
        """Set once nothing is decided, or recorded, any more."""
        self._store = store
        self._actuator = actuator
        self._clock = clock or SystemClock()
        self._batch_max = batch_max
        self._on_problem = on_problem
        self._unsaved: dict[str, Job] = {}
        self._actions: list[Command] = []
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: set[asyncio.Queue[Job]] = set()
        self._tasks = Tasks(on_problem)
        self._outbox: asyncio.Task[None] | None = None

    def now(self) -> Instant:
        """The present instant of the driver's clock."""
        return self._clock.now()

    def start(self) -> None:
        """Begin to carry out commands; call once, inside the loop."""
        self._outbox = asyncio.get_running_loop().create_task(self._run_outbox())

    async def restore(self, jobs: Iterable[Job], ended: dict[str, JobState]) -> None:
        """Take over what an earlier process left: fold the records, then adopt what was placed."""
        restored = list(jobs)
        self.post(*(JobRestored(job, _known_for(job, ended)) for job in restored))
        for job in restored:
            if job.state.is_placed:
                await self.adopt(job)

    async def adopt(self, job: Job) -> None:
        """Look for an attempt; one that cannot be looked for must not hold up the others."""
        try:
            await self._actuator.adopt(job)
        except Exception as error:  # noqa: BLE001 - as for launches
            self._on_problem(f"cannot look for {job.name}, which keeps what it holds: {error!r}")

    def post(self, *events: Event) -> None:
        """Fold events now and queue what follows from them; call from the loop's thread.

        Nothing is taken any more once `broken` is set.

        Raises:
            Exception: a bug of ours, as a rule an InvariantError. The events are lost and the state
                is none, so `broken` is set: who drives must end, and the next process starts from
                what is durable.
        """
        if self.broken.is_set():
            return
        try:
            step = self.controller.step(events, self._clock.now())
        except InvariantError as error:
            self.fail(f"a law is broken: {error.message}")
            raise
        except Exception as error:
            self.fail(f"nothing can be decided any more: {error!r}")
            raise
        for command in step.commands:
            if isinstance(command, SaveJob):
                self._unsaved[command.job.id] = command.job
            else:
                self._actions.append(command)
        if step.commands:
            self._work.set()
        self._wake_at(step.wake_at_ms)

    def fail(self, why: str) -> None:
        """Give up driving: what happened meanwhile is lost to this process."""
        self.broken.set()
        self._on_problem(f"stopping: {why}")

    def unsaved(self, job_id: str) -> Job | None:
        """The version of a job that is decided but not durable yet."""
        return self._unsaved.get(job_id)

    def all_unsaved(self) -> list[Job]:
        """Every version that is decided but not durable yet, those of ended jobs among them."""
        return list(self._unsaved.values())

    async def wait_until_saved(self, job_ids: Collection[str]) -> None:
        """Wait until what is decided of these jobs is durable; for ever where nothing is saved."""
        with self.listen() as queue:
            while not self._unsaved.keys().isdisjoint(job_ids):
                await queue.get()

    @contextlib.contextmanager
    def listen(self) -> Generator[asyncio.Queue[Job]]:
        """A queue of every version of every job, each put there once it is durable."""
        queue: asyncio.Queue[Job] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    async def close(self) -> None:
        """Stop driving; attempts go on without us."""
        if self._timer is not None:
            self._timer.cancel()
        if self._outbox is not None:
            self._outbox.cancel()
            await asyncio.gather(self._outbox, return_exceptions=True)

    def _wake_at(self, wake_at_ms: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at_ms is not None:
            delay_s = max(0, wake_at_ms - self._clock.now().mono_ms) / 1000
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay_s, self.post, TimerFired())

    async def _run_outbox(self) -> None:
        try:
            await self._empty_outbox()
        except Exception as error:
            self.fail(f"nothing can be recorded any more: {error!r}")
            raise

    async def _empty_outbox(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            batch = list(itertools.islice(self._unsaved.values(), self._batch_max))
            actions = self._take_actions({job.id for job in batch})
            if len(batch) < len(self._unsaved):
                self._work.set()
            await self._save(batch)
            for job in batch:
                if self._unsaved.get(job.id) is job:
                    del self._unsaved[job.id]
                for queue in self._listeners:
                    queue.put_nowait(job)
            for action in actions:
                self._tasks.begin(self._carry_out(action))

    def _take_actions(self, saved: set[str]) -> list[Command]:
        """Actions whose records will be durable; those of records that still wait stay."""
        if len(saved) == len(self._unsaved):
            ready, self._actions = self._actions, []
            return ready
        waiting = self._unsaved.keys() - saved
        ready = [action for action in self._actions if job_id_of(action) not in waiting]
        self._actions = [action for action in self._actions if job_id_of(action) in waiting]
        return ready

    async def _save(self, batch: list[Job]) -> None:
        while batch:
            try:
                await self._store.save(batch)
            except TemporaryError as error:
                self._on_problem(f"{len(batch)} records are put off: {error.message}")
                await asyncio.sleep(error.delay_s)
            else:
                return

    async def _carry_out(self, action: Command) -> None:
        if isinstance(action, LaunchAttempt):
            await self._launch(action.job)
        elif isinstance(action, StopAttempt):
            try:
                await self._actuator.stop(action.job_id, action.attempt, action.grace_s)
            except Exception as error:  # noqa: BLE001 - an adapter's bug must not end the driver
                self._on_problem(f"cannot stop {action.job_id}: {error!r}")

    async def _launch(self, job: Job) -> None:
        """Launch; what surely did not start goes back to the queue, what may have is looked for."""
        try:
            await self._actuator.launch(job)
        except TemporaryError as error:
            self._on_problem(f"{job.name} is put off: {error.message}")
            outcome = Outcome(EndCause.REVOKED, message=error.message)
            self.post(AttemptEnded(job.id, job.attempt, outcome))
        except Exception as error:  # noqa: BLE001 - an adapter's bug must not end the driver
            self._on_problem(f"launching {job.name} failed, looking for it: {error!r}")
            await self.adopt(job)


def job_id_of(command: Command) -> str:
    """The job that a command is about."""
    return command.job_id if isinstance(command, StopAttempt) else command.job.id


def _known_for(job: Job, ended: dict[str, JobState]) -> dict[str, JobState]:
    ids = {dependency.job_id for dependency in job.after}
    if job.array is not None:
        ids.add(job.array.array_id)
    return {one: ended[one] for one in ids if one in ended}
