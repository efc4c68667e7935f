"""The Python API: submit functions and commands, and hold on to what becomes of them.

A `Job` is a handle: it holds a name and an id, asks the service whenever it is asked, and can be
pickled, lost, and fetched again with `get`. Waiting never cancels: interrupt as you like.
"""

from __future__ import annotations

import asyncio
import math
import threading
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct

from mlsched.api.client import Client
from mlsched.api.contexts import LOCAL, connect_to, current_context, open_client
from mlsched.api.errors import error_of_job
from mlsched.api.functions import Call, command_of, is_function, store_function
from mlsched.api.html import job_html
from mlsched.api.interfaces import AnyClient
from mlsched.api.layering import combine, with_name
from mlsched.api.options import Option, to_flags
from mlsched.api.outputs import JobOutput
from mlsched.api.results import read_error, read_result
from mlsched.api.submissions import submit_args
from mlsched.api.watching import ENDED_STATES, JobWatch
from mlsched.config import Paths, load_settings
from mlsched.errors import MlschedError, NotFoundError, SpecError
from mlsched.model.specs import JobSpec
from mlsched.specs.documents import JobDocument, to_document
from mlsched.specs.limits import clean_name
from mlsched.specs.values import read_command

JsonObject = dict[str, Any]

End = Exception | list[JsonObject]
"""What ended the watching of a job: an error, or its end, with the last that was seen."""

_WATCH_S = 0.5
"""How soon a waiting thread notices that nobody waits for it any more."""


class Status(Struct, frozen=True):
    """Where a job is, at one moment."""

    phase: str
    """PENDING, STARTING, RUNNING, SUCCEEDED, FAILED, CANCELLED or PREEMPTED."""
    reason: str
    """A stable code such as ``WaitingForCapacity``; empty when there is nothing to say."""
    message: str
    attempt: int
    exit_code: int | None
    gpus: tuple[str, ...]
    submitted_at: str
    started_at: str | None
    ended_at: str | None
    progress: Mapping[str, Any] | None
    """What the job told by ``ml.progress``: done, total, unit, note."""


class Job:
    """A handle on a job, or on an array of jobs.

    Args:
        context: Where it is: ``local``, or a context of the kubeconfig; empty for the current one.
    """

    def __init__(
        self,
        name: str,
        id: str,  # noqa: A002 - the field's name everywhere
        context: str = "",
    ) -> None:
        self.name = name
        self.id = id
        self.context = context

    def __reduce__(self) -> tuple[type[Job], tuple[str, str, str]]:
        return Job, (self.name, self.id, self.context)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Job):
            return False
        return (other.id, other.context) == (self.id, self.context)

    def __hash__(self) -> int:
        return hash(self.id)

    def _connect(self) -> AnyClient:
        return connect_to(self.context)

    def info(self) -> JsonObject:
        """Everything that ``mlsched show`` knows, as plain values."""
        return dict(self._connect().call("show", job=self.id))

    @property
    def state(self) -> str:
        """PENDING, STARTING, RUNNING, SUCCEEDED, FAILED, CANCELLED or PREEMPTED."""
        return str(self.info()["state"])

    @property
    def status(self) -> Status:
        """State, reason, progress: one consistent reading."""
        found = self.info()
        reason = found.get("reason") or {}
        return Status(
            phase=found["state"],
            reason=str(reason.get("code", "")),
            message=str(reason.get("message", "")),
            attempt=found["attempt"],
            exit_code=found["exit_code"],
            gpus=tuple(found["gpus"]),
            submitted_at=found["submitted_at"],
            started_at=found["started_at"],
            ended_at=found["ended_at"],
            progress=found.get("progress"),
        )

    def why(self) -> str:
        """The one reason why the job is where it is, its evidence, and what would start it now."""
        from mlsched.api.texts import why_text

        return why_text(self._connect().call("why", job=self.id))

    def logs(
        self, *, follow: bool = False, rank: int | None = None, tail: int | None = None
    ) -> JobOutput:
        """The output: iterate over its lines, or print it.

        Args:
            follow: Go on until the job ends, waiting for it to start. Interrupting cancels nothing.
            rank: Only this rank; None for all.
            tail: Only the last so many lines of what is there now.
        """
        return JobOutput(self._connect, self.id, follow=follow, rank=rank, tail=tail)

    def done(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDED_STATES

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the job has ended; False when ``timeout`` seconds are over before."""
        with JobWatch(self._connect(), [self.id]) as watch:
            return watch.wait(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned; for a command its exit code, 0; for an array a list.

        Args:
            timeout: Seconds to wait; None for ever.

        Raises:
            TimeoutError: the job has not ended yet. It goes on.
            Exception: the function's own exception, with its remote frames.
            JobError: the job ended otherwise: OutOfMemory, Timeout, Cancelled, JobFailed, ...
        """
        return self._outcome(self._wait_for_end(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise; None when the job succeeded.

        Raises:
            TimeoutError: the job has not ended yet.
        """
        seen = self._wait_for_end(timeout)
        try:
            self._outcome(seen)
        except Exception as error:  # noqa: BLE001 - handing the user's exception on is the purpose
            return error
        return None

    def _wait_for_end(self, timeout: float | None) -> list[JsonObject]:
        """The last that was seen of the job, or of its elements."""
        with JobWatch(self._connect(), [self.id]) as watch:
            if not watch.wait(timeout):
                raise TimeoutError(f"{self.name} has not ended after {timeout:g} s; it goes on.")
            return list(watch.jobs.values())

    def _outcome(self, seen: Sequence[JsonObject]) -> Any:
        """Result or exception.

        Args:
            seen: What is left of a job whose object in a cluster is deleted.
        """
        try:
            found = self.info()
        except NotFoundError:
            for job in seen:
                if job["state"] != "SUCCEEDED":
                    raise error_of_job(job) from None
            raise
        if found.get("array"):
            client = self._connect()
            return [_outcome_of(client.call("show", job=one.id)) for one in self.elements()]
        return _outcome_of(found)

    def elements(self) -> list[Job]:
        """The jobs of an array in the order of their indices; the job itself if it is none."""
        array = self.info().get("array")
        if not array:
            return [self]
        with JobWatch(self._connect(), [self.id]) as watch:
            while len(watch.jobs) < array["size"] and not watch.is_over:
                watch.poll(_WATCH_S)
            found = sorted(watch.jobs.values(), key=lambda job: job["array_index"])
        return [Job(job["name"], job["id"], self.context) for job in found]

    def cancel(self, grace: str | float | None = None) -> None:
        """Ask the job to end.

        Args:
            grace: Time from SIGTERM to SIGKILL: ``"2m"`` or seconds; None for what its spec says.
        """
        from mlsched.specs.flags import read_seconds

        grace_s = read_seconds(grace, "grace") if isinstance(grace, str) else grace
        whole_s = None if grace_s is None else math.ceil(grace_s)
        self._connect().call("cancel", jobs=[self.id], grace_s=whole_s)

    def add_done_callback(self, function: Callable[[Job], object]) -> None:
        """Call ``function(job)`` once the job has ended, in a thread of its own."""
        _watch_in_thread(self, lambda end: function(self), threading.Event())

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result_async().__await__()

    async def _result_async(self) -> Any:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[list[JsonObject]] = loop.create_future()
        left = threading.Event()

        def finish(end: End) -> None:
            if ended.done():
                return
            if isinstance(end, Exception):
                ended.set_exception(end)
            else:
                ended.set_result(end)

        def tell(end: End) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, end)

        _watch_in_thread(self, tell, left)
        try:
            seen = await ended
        finally:
            left.set()
        return await asyncio.to_thread(self._outcome, seen)

    def _peek(self) -> JsonObject | None:
        """A reading for display: never raises, never starts the service."""
        try:
            paths = Paths.from_environment()
            client: AnyClient = Client(paths, autostart=False, deadline_s=2.0)
            context = self.context or current_context(paths)
            if context != LOCAL:
                client = open_client(context, paths)
            return dict(client.call("show", job=self.id))
        except MlschedError:
            return None

    def __repr__(self) -> str:
        found = self._peek()
        state = f" {found['state']}" if found else ""
        return f"<mlsched.Job {self.name}{state}>"

    def _repr_html_(self) -> str:
        found = self._peek()
        return job_html(found or {"name": self.name, "state": "UNKNOWN"})

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


def _watch_in_thread(job: Job, tell: Callable[[End], object], left: threading.Event) -> None:
    """Call ``tell`` when the job has ended, unless ``left`` is set before; a daemon thread.

    Whatever ends the watching counts as an end, and is told: nobody must wait for ever.
    """

    def watch() -> None:
        try:
            with JobWatch(connect_to(job.context), [job.id]) as watching:
                while not watching.is_over:
                    if left.is_set():
                        return
                    watching.poll(_WATCH_S)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            tell(error)
        else:
            tell(list(watching.jobs.values()))

    threading.Thread(target=watch, name=f"mlsched-{job.name}", daemon=True).start()


def _outcome_of(job: JsonObject) -> Any:
    """Result or exception of one job that has ended."""
    directory = Path(job["directory"]) if job.get("directory") else None
    function = is_function(job["command"])
    if job["state"] == "SUCCEEDED":
        return read_result(directory) if function and directory else job["exit_code"]
    error = read_error(directory) if function and directory and job["state"] == "FAILED" else None
    if error is None:
        raise error_of_job(job)
    error.add_note(f"raised in job {job['name']}, attempt {job['attempt']}")
    raise error


def submit(
    what: Callable[..., Any] | str | Sequence[str],
    *args: Any,
    by_value: Sequence[ModuleType] = (),
    idempotency_key: str = "",
    context: str = "",
    **kwargs: Any,
) -> Job:
    """Submit a function, or a command, and return at once with a handle.

    Keywords that name an option (see `mlsched.api.options.Option`) describe the job: ``gpus``,
    ``cpus``, ``memory``, ``nodes``, ``tasks_per_node``, ``time``, ``name``, ``queue``,
    ``priority``, ``env``, ``workdir``, ``retries``, ``after``, ``array``, ``signal``, ``grace``,
    ``labels``, ``image``, ``layer``, ``node_selector``. All others go to the function; one that has
    an option's name is passed by wrapping the call in a lambda.

    Args:
        what: A function; or a command, as a list of words or as text split into words.
        args: Positional arguments of the function.
        by_value: Modules to send along, because the job cannot import them.
        idempotency_key: A second submit with the same key gives the job of the first.
        context: Where to run it: ``local``, or a context of the kubeconfig; empty for the current
            one. A cluster takes commands, not functions yet.
        kwargs: Options of the job, and keyword arguments of the function.

    Raises:
        SpecError: an option or the command is wrong, or the function cannot be pickled.
        NeverFitsError: larger than anything that exists here.
        UnreachableError: the service cannot be started.
    """
    options, rest = Option.split(kwargs)
    client = connect_to(context)
    if callable(what):
        if client.context != LOCAL:
            raise SpecError(
                f"a function cannot be sent to a cluster yet, and {client.context} is one.",
                'Submit a command, such as ["python", "train.py"] in an image that has it; '
                'or context="local".',
            )
        blob = store_function(Call(what, args, rest), client.paths.blobs_dir, by_value)
        command = command_of(blob)
    else:
        if args or rest:
            found = ", ".join([*map(repr, args), *rest])[:100]
            raise SpecError(
                f"a command takes no arguments of a function, found {found}.",
                f"Options of a job: {', '.join(Option.names())}.",
            )
        command = list(read_command(what, "command"))
    document = combine(
        JobDocument(JobSpec(command=tuple(command))),
        to_flags(options),
        load_settings(client.paths.config_file).defaults,
    )
    document = with_name(document, _name_of(what))
    request = submit_args(to_document(document.spec, document.metadata), idempotency_key)
    found = client.call("submit", **request)
    for warning in found.get("warnings", ()):
        warnings.warn(warning, RuntimeWarning, stacklevel=2)
    job = found["jobs"][0]
    return Job(job["name"], job["id"], client.context)


def _name_of(what: object) -> str:
    """A name for a function's job; empty for commands, which the service names."""
    if not callable(what):
        return ""
    return clean_name(getattr(what, "__name__", type(what).__name__).strip("<>"))


def get(name: str, *, context: str = "") -> Job:
    """The job of a name, an id, or the unique beginning of an id.

    Args:
        context: Where it is; empty for the current one.

    Raises:
        NotFoundError: there is none.
    """
    client = connect_to(context)
    found = client.call("show", job=name)
    return Job(found["name"], found["id"], client.context)


def jobs(
    *,
    all: bool = False,  # noqa: A002 - as `ls --all`
    queue: str | None = None,
    context: str = "",
) -> list[Job]:
    """Jobs that are open, running ones first; with ``all`` those that have ended too.

    Args:
        context: Where they are; empty for the current one.
    """
    client = connect_to(context)
    found = client.call("list", all=all, limit=None, state=None, queue=queue)
    return [Job(job["name"], job["id"], client.context) for job in found["jobs"]]


def gpus(*, context: str = "") -> list[JsonObject]:
    """The GPUs as placement sees them: uuid, model, memory, health, holder.

    Args:
        context: Of which cluster, or ``local``; empty for the current context.
    """
    found = connect_to(context).call("node")
    for note in found.get("notes", ()):
        warnings.warn(note, RuntimeWarning, stacklevel=2)
    return [dict(device) for device in found["devices"]]
