"""The local engine: threads of this process.

Arrow's kernels, file reads and hashing release the interpreter lock, so threads use all cores
without copying anything between processes.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from mlsched.errors import PipelineError
from mlsched_pipelines.engines import Call, Outcome, Ref, count_cores


class LocalEngine:
    """Run calls on threads.

    Args:
        workers: Threads; by default one for each core that this process may use.
    """

    def __init__(self, workers: int | None = None) -> None:
        found = count_cores() if workers is None else workers
        if found < 1:
            raise PipelineError(f"LocalEngine: expected at least one worker, found {found}.")
        self.slots = found
        self.worker_memory_max_bytes = None
        self._pool = ThreadPoolExecutor(found, thread_name_prefix="mlsched-pipeline")
        self._ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._running: dict[str, Future[Any]] = {}

    def put_ref(self, value: Any) -> Ref:
        """The value itself: threads share memory."""
        return Ref(value)

    def submit(self, call: Call) -> None:
        """Queue a call on the threads."""
        future = self._pool.submit(call.function, call.shared, call.argument)
        self._running[call.task_id] = future
        future.add_done_callback(lambda ended: self._ended.put(_outcome(call.task_id, ended)))

    def wait_any(self, timeout_s: float | None = None) -> tuple[Outcome, ...]:
        """See `mlsched_pipelines.engines.Engine.wait_any`."""
        if not self._running:
            return ()
        found: list[Outcome] = []
        try:
            found.append(self._ended.get(timeout=timeout_s))
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        for outcome in found:
            self._running.pop(outcome.task_id, None)
        return tuple(found)

    def cancel(self, task_id: str) -> None:
        """See `mlsched_pipelines.engines.Engine.cancel`."""
        if task_id in self._running:
            self._running[task_id].cancel()

    def locality(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Nothing: one machine is as near as it gets."""
        return ()

    def close(self) -> None:
        """See `mlsched_pipelines.engines.Engine.close`."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        """The engine; its threads start with the first call."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


def _outcome(task_id: str, ended: Future[Any]) -> Outcome:
    if ended.cancelled():
        return Outcome(task_id, cancelled=True)
    error = ended.exception()
    return Outcome(task_id, error=error) if error is not None else Outcome(task_id, ended.result())
