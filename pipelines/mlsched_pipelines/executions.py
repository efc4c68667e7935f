"""The execution of a plan: stage after stage on an engine, from the markers of a try before.

Tasks are submitted while their estimated memory is within the budget; which of them run side by
side changes nothing of what they write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from mlsched.errors import InvariantError, MlschedError, PipelineError
from mlsched_pipelines.engines import Call, Engine, Outcome
from mlsched_pipelines.exchanges import handed_bytes
from mlsched_pipelines.manifests import TaskRecord
from mlsched_pipelines.memory import Budget, check_task_fits, task_memory_bytes
from mlsched_pipelines.plans import Plan
from mlsched_pipelines.progress import Progress
from mlsched_pipelines.rows import Counts, too_many_rejects
from mlsched_pipelines.schema import check_row_count
from mlsched_pipelines.stages import Stage, cut_stages
from mlsched_pipelines.stores import Store
from mlsched_pipelines.stores.commits import keep_young
from mlsched_pipelines.stores.shards import read_shard
from mlsched_pipelines.tasks import Work, marker_path, read_marker, run_task

Listener = Callable[[Progress], None]

TELL_EVERY_S = 5.0
"""How long a listener hears nothing at most, however long a task takes."""


class Task(Struct, frozen=True):
    """One task that is still to be done."""

    number: int
    call: Call
    memory_bytes: int
    what: str
    """What it reads, for messages."""


class Execution:
    """One try at a plan; `run` gives the records of each stage.

    Args:
        plan: What to compute.
        store: Where its output goes.
        folder: Where the run stages its files, within the store.
        engine: Where tasks run.
        budget: Memory that they may take, by estimate.
        listener: Called after every task, and every `TELL_EVERY_S`, in the caller's thread.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        folder: str,
        engine: Engine,
        budget: Budget,
        listener: Listener | None,
    ) -> None:
        self.stages = cut_stages(plan)
        self.records: list[tuple[TaskRecord, ...]] = []
        self.resumed = 0
        self._plan_hash, self._target = plan.plan_hash, plan.writes()
        self._store, self._folder, self._engine = store, folder, engine
        self._budget, self._listener = budget, listener
        self._found = {entry.path: entry.size_bytes for entry in store.list_files(folder)}
        self._meter = _Meter(self.stages)

    def run(self) -> None:
        """Do every task that has no marker yet.

        Raises:
            SchemaMismatchError, PipelineError, StoreFullError: see `mlsched_pipelines.runs.run`.
        """
        if self._found:
            keep_young(self._store, self._folder)
        for stage in self.stages:
            self.records.append(self._run_stage(stage))

    @property
    def done(self) -> Iterator[TaskRecord]:
        """The records of all tasks that have ended."""
        return (record for records in self.records for record in records)

    def check_budget(self, records: Iterable[TaskRecord] = ()) -> None:
        """The rejects of all finished tasks, and of these, are within the run's budget.

        Raises:
            SchemaMismatchError: there are more; the message has the first.
        """
        found = [*self.done, *records]
        rejected = sum(record.counts.rejected for record in found)
        if rejected > self._target.rejects_max:
            file = next(record.rejects for record in found if record.rejects is not None)
            first = read_shard(self._store, file).slice(0, 1).to_pylist()[0]
            raise too_many_rejects(rejected, self._target.rejects_max, tuple(first.values()))

    def _run_stage(self, stage: Stage) -> tuple[TaskRecord, ...]:
        work = self._work(stage)
        done = {
            number: record
            for number in range(stage.tasks)
            if (record := self._resume(work.task_id(number))) is not None
        }
        self.resumed += len(done)
        sizes_bytes = self._input_bytes(stage)
        self._meter.begin(work, sizes_bytes, done.values())
        self.check_budget(done.values())
        if len(done) < stage.tasks:
            self._run_tasks(stage, self._tasks(work, sizes_bytes, done), done)
        return tuple(done[number] for number in range(stage.tasks))

    def _work(self, stage: Stage) -> Work:
        sides = ((self.records[at], self.stages[at].schema) for at in stage.broadcasts)
        return Work(
            self._folder,
            self._plan_hash,
            self._target,
            stage,
            tuple(self.records[at] for at in stage.inputs),
            tuple(sides),
            self._budget.task_bytes,
        )

    def _resume(self, task_id: str) -> TaskRecord | None:
        """What a try before left of a task. A marker whose files are gone is of no use."""
        path = marker_path(self._folder, task_id)
        record = read_marker(self._store, self._folder, task_id) if path in self._found else None
        if record is None or all(self._found.get(name) == size for name, size in _files(record)):
            return record
        self._store.delete([path])
        return None

    def _input_bytes(self, stage: Stage) -> list[int]:
        """What each task of a stage reads, but for the other sides of its broadcast joins."""
        if stage.source is not None:
            return [split.size_bytes for split in stage.splits]
        return list(map(sum, zip(*map(self._handed_bytes, stage.inputs), strict=True)))

    def _handed_bytes(self, number: int) -> list[int]:
        exchange = self.stages[number].exchange
        return [] if exchange is None else handed_bytes(self.records[number], exchange)

    def _tasks(
        self, work: Work, sizes_bytes: Sequence[int], done: dict[int, TaskRecord]
    ) -> list[Task]:
        stage = work.stage
        sides_bytes = sum(sum(self._handed_bytes(at)) for at in stage.broadcasts)
        shared = self._engine.put_ref(work)
        tasks: list[Task] = []
        for number in range(stage.tasks):
            if number in done:
                continue
            path = stage.splits[number].pin.path if stage.source is not None else ""
            near = self._engine.locality([path]) if path else ()
            what = path or f"partition {number + 1} of {stage.tasks}"
            needed = task_memory_bytes(stage, sizes_bytes[number], sides_bytes)
            check_task_fits(stage, what, needed, self._budget.task_bytes)
            call = Call(work.task_id(number), run_task, shared, number, near)
            tasks.append(Task(number, call, needed, what))
        return tasks

    def _run_tasks(self, stage: Stage, tasks: list[Task], done: dict[int, TaskRecord]) -> None:
        """Do the tasks; after a failure wait for what runs, so that no task outlives the run."""
        by_id = {task.call.task_id: task for task in tasks}
        try:
            for outcome in _outcomes(self._engine, tasks, self._budget.run_bytes):
                if outcome is not None:
                    task = by_id[outcome.task_id]
                    record = _value(outcome, task.what)
                    done[task.number] = record
                    if record.counts.rejected:
                        self.check_budget(done.values())
                    self._meter.end(stage, record, task.number)
                if self._listener is not None:
                    self._listener(self._meter.progress())
        except Exception:
            _cancel(self._engine, tasks)
            while self._engine.wait_any():
                pass
            raise
        except BaseException:
            # Who interrupts does not wait: the workers may have been told to end as well.
            _cancel(self._engine, tasks)
            raise


def _files(record: TaskRecord) -> Iterator[tuple[str, int]]:
    """Every file that a task left, with its size."""
    for file in (*record.files, record.rejects, record.exchange):
        if file is not None:
            yield file.path, file.size_bytes


def _outcomes(engine: Engine, tasks: Sequence[Task], budget_bytes: int) -> Iterator[Outcome | None]:
    """Keep the engine's slots filled with one call in reserve, within the budget.

    Yields:
        How each call ended; None after every `TELL_EVERY_S` in which none did.
    """
    held: dict[str, int] = {}
    for task in tasks:
        while held and (
            len(held) > engine.slots or sum(held.values()) + task.memory_bytes > budget_bytes
        ):
            yield from _ended(engine, held)
        engine.submit(task.call)
        held[task.call.task_id] = task.memory_bytes
    while held:
        yield from _ended(engine, held)


def _ended(engine: Engine, held: dict[str, int]) -> Iterator[Outcome | None]:
    """What ended of the calls that are held; an interrupted run may have left others."""
    found = engine.wait_any(TELL_EVERY_S)
    for outcome in found:
        if held.pop(outcome.task_id, None) is not None:
            yield outcome
    if not found:
        yield None


def _cancel(engine: Engine, tasks: Iterable[Task]) -> None:
    """Begin nothing more."""
    for task in tasks:
        engine.cancel(task.call.task_id)


def _value(outcome: Outcome, what: str) -> Any:
    error = outcome.error
    if outcome.cancelled:
        raise PipelineError(f"The task of {what} was cancelled. Nothing was published.")
    if error is None:
        return outcome.value
    is_own = isinstance(error, (MlschedError, OSError))
    if is_own or not isinstance(error, (Exception, SystemExit)):
        raise error
    raise PipelineError(
        f"The task of {what} failed: {type(error).__name__}: {error}.",
        "Nothing was published. Correct the function or the data, and run again.",
    ) from error


class _Meter:
    """What a run has done so far; the input of a stage is known once it begins."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._started = time.monotonic()
        self._stage = stages[0]
        self._tasks = sum(stage.tasks for stage in stages)
        self._sizes: dict[int, list[int]] = {
            stage.number: [split.size_bytes for split in stage.splits] for stage in stages
        }
        self._done = self._rows_in = self._rows_out = self._bytes_done = self._bytes_here = 0

    def begin(self, work: Work, sizes_bytes: list[int], resumed: Iterable[TaskRecord]) -> None:
        """A stage begins; some of its tasks were done before."""
        stage = work.stage
        self._stage = stage
        self._sizes[stage.number] = sizes_bytes
        ids = {work.task_id(number): number for number in range(stage.tasks)}
        for record in resumed:
            self._count(stage, record, ids[record.task_id])

    def end(self, stage: Stage, record: TaskRecord, number: int) -> None:
        """A task ended here."""
        self._count(stage, record, number)
        self._bytes_here += self._sizes[stage.number][number]

    def _count(self, stage: Stage, record: TaskRecord, number: int) -> None:
        self._done += 1
        self._rows_in += record.counts.rows_in if stage.source is not None else 0
        self._rows_out += record.counts.rows_out
        self._bytes_done += self._sizes[stage.number][number]

    def progress(self) -> Progress:
        """How far the run is now."""
        return Progress(
            self._stage.name,
            self._done,
            self._tasks,
            self._rows_in,
            self._rows_out,
            self._bytes_done,
            sum(map(sum, self._sizes.values())),
            self._bytes_here,
            time.monotonic() - self._started,
        )


def total_counts(execution: Execution) -> Counts:
    """The account of a whole run: rows that go from stage to stage are neither input nor output.

    Raises:
        PipelineError: a source had too few rows, or too many.
        InvariantError: a stage read other rows than those before it handed on.
    """
    by_stage = [
        sum((record.counts for record in records), Counts()) for records in execution.records
    ]
    total = sum(by_stage, Counts())
    rows_in = pruned = 0
    combined = total.combined
    for stage, counts in zip(execution.stages, by_stage, strict=True):
        handed = sum(by_stage[at].rows_out for at in stage.inputs)
        if stage.source is not None:
            read = counts.rows_in + stage.pruned_rows
            check_row_count(stage.source.contract, read, "The input")
            rows_in, pruned = rows_in + read, pruned + stage.pruned_rows
        elif counts.rows_in != handed:
            raise InvariantError(
                "handed-on",
                f"Stage {stage.number} read {counts.rows_in} rows, {handed} were handed on to it.",
            )
        combined += sum(by_stage[at].rows_out for at in stage.broadcasts)
    return Counts(
        rows_in,
        by_stage[-1].rows_out,
        total.filtered + pruned,
        total.rejected,
        total.made,
        combined,
    )
