"""Real supervisors in a jobs directory of their own, driven as the service drives them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlsched.adapters.local import LocalNode
from mlsched.adapters.local.attempts import AttemptDirectory
from mlsched.config import LogSettings, NodeSettings, Settings
from mlsched.model.events import AttemptEnded, AttemptStarted, AttemptStuck, Event
from mlsched.model.jobs import GroupPlacement, Job, Outcome
from mlsched.model.specs import JobSpec

DEADLINE_S = 30.0


async def until(holds: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """What ``holds`` returns, once it is true; fails at the deadline."""
    end = time.monotonic() + deadline_s
    while not (found := holds()):
        assert time.monotonic() < end, "the condition never held"
        await asyncio.sleep(0.01)
    return found


class Run:
    """A node and the events that it sent."""

    def __init__(self, node: LocalNode) -> None:
        self.node = node
        self.events: list[Event] = []
        node.emit = self.events.append

    async def started(self, job: Job) -> AttemptStarted:
        """The start of this attempt."""
        return await until(lambda: self._find(job, AttemptStarted))

    async def ended(self, job: Job, deadline_s: float = DEADLINE_S) -> Outcome:
        """The end of this attempt."""
        event = await until(lambda: self._find(job, AttemptEnded), deadline_s)
        return event.outcome

    async def stuck(self, job: Job) -> AttemptStuck:
        """News that this attempt cannot be ended."""
        return await until(lambda: self._find(job, AttemptStuck), 2 * DEADLINE_S)

    def has_ended(self, job: Job) -> bool:
        """Whether the end of this attempt was told."""
        return self._find(job, AttemptEnded) is not None

    def _find(self, job: Job, kind: type[Any]) -> Any:
        for event in self.events:
            if isinstance(event, kind) and (event.job_id, event.attempt) == (job.id, job.attempt):
                return event
        return None


class Bench:
    """One machine for tests: its jobs directory, and short ways to make jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs_dir = path / "jobs"
        self.settings = Settings()
        self.count = 0
        self.until = until
        self.sleep = asyncio.sleep
        self.python = sys.executable

    def use(
        self, *, cgroups: bool = True, log_bytes_max: int = 1 << 28, files_max: int = 4
    ) -> None:
        """Other settings for the nodes made from now on."""
        self.settings = Settings(
            logs=LogSettings(log_bytes_max, files_max), node=NodeSettings(cgroups=cgroups)
        )

    def job(self, *command: str, groups: int = 1, memory_bytes: int = 0, **spec: Any) -> Job:
        """A job at its first attempt, placed on this machine."""
        self.count += 1
        env = {"PATH": os.environ["PATH"], "HOME": str(self.path)} | spec.pop("env", {})
        spec.setdefault("workdir", str(self.path))
        milli_cpus = spec.pop("milli_cpus", 0)
        placed = (GroupPlacement("here", milli_cpus, memory_bytes),) * groups
        name = f"{self.path.name}-{self.count}"
        made = JobSpec(command=command, env=env, nodes=groups, **spec)
        return Job(name, name, self.count, made, 0, attempt=1, placements=placed)

    def shell(self, text: str, **more: Any) -> Job:
        """A job that runs a shell command."""
        return self.job("sh", "-c", text, **more)

    @contextlib.asynccontextmanager
    async def node(self) -> AsyncIterator[Run]:
        """A node as one service has it; leaving closes it, and jobs go on."""
        problems: list[str] = []
        node = LocalNode(self.jobs_dir, self.settings, on_problem=problems.append)
        try:
            yield Run(node)
        finally:
            await node.close()
        assert not problems

    def run(self, job: Job, deadline_s: float = DEADLINE_S) -> Outcome:
        """Run a job to its end."""

        async def work() -> Outcome:
            async with self.node() as run:
                await run.node.launch(job)
                return await run.ended(job, deadline_s)

        return asyncio.run(work())

    def do(self, work: Callable[[Run], Awaitable[Any]]) -> Any:
        """Do something with a node."""

        async def inner() -> Any:
            async with self.node() as run:
                return await work(run)

        return asyncio.run(inner())

    def files(self, job: Job) -> AttemptDirectory:
        """The directory of a job's attempt."""
        return AttemptDirectory(self.jobs_dir, job.id, job.attempt)

    def output(self, job: Job, stream: str = "stdout", rank: int = 0) -> bytes:
        """What a rank printed, as the log has it, over all of its files."""
        directory = self.files(job).path
        names = [f"rank-{rank}.log.{number}" for number in range(9, 0, -1)] + [f"rank-{rank}.log"]
        found = []
        for path in (directory / name for name in names):
            for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
                _, found_stream, flag, data = line.split(b" ", 3)
                if found_stream.decode() == stream:
                    found.append(data + (b"\n" if flag == b"F" else b""))
        return b"".join(found)

    def processes(self, job: Job) -> list[psutil.Process]:
        """Living processes that carry the job's environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_dead = process.status() == psutil.STATUS_ZOMBIE
                mark = process.environ().get("MLSCHED_ATTEMPT_DIR")
                if not is_dead and mark == str(self.files(job).path):
                    found.append(process)
        return found

    def supervisor(self, job: Job) -> int:
        """Process id of the job's supervisor."""
        claim = self.files(job).read_claim()
        assert claim is not None
        assert claim.identity is not None
        return claim.identity.pid

    def signal_supervisor(self, job: Job, number: int) -> None:
        """Signal the job's supervisor."""
        os.kill(self.supervisor(job), number)

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin work and go on."""
        return asyncio.get_running_loop().create_task(work)

    def kill_all(self) -> None:
        """End whatever a failed test left running."""
        for path in self.jobs_dir.glob("*/*/run.json") if self.jobs_dir.exists() else ():
            claim = AttemptDirectory(
                self.jobs_dir, path.parts[-3], int(path.parts[-2])
            ).read_claim()
            if claim is not None and claim.identity is not None:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(claim.identity.pid)
                    if str(self.jobs_dir) in " ".join(process.cmdline()):
                        for one in [*process.children(recursive=True), process]:
                            one.send_signal(signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.kill_all()
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                break
        except ChildProcessError:
            break


@pytest.fixture
def can_use_cgroups(bench: Bench) -> None:
    """Skip where no control group can be made for memory."""
    job = bench.shell("true", memory_bytes=1 << 30)

    async def work(run: Run) -> str:
        await run.node.launch(job)
        return (await run.started(job)).enforcement.memory

    if not bench.do(work).startswith("cgroup"):
        pytest.skip("no control group can be made here")
