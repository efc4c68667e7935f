"""From a document to durable jobs: names, arrays, dependencies, and the check that it can fit."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from msgspec.structs import replace

from mlsched.adapters.store.values import Submission
from mlsched.core.feasibility import never_fits
from mlsched.core.ledger import Ledger
from mlsched.errors import NeverFitsError, NotFoundError, SpecError, StoreFullError
from mlsched.model.jobs import ArrayMembership, Job, ResolvedDependency
from mlsched.model.resources import need_of
from mlsched.model.specs import Dependency, JobSpec
from mlsched.server.arguments import VARIABLES, read_argument
from mlsched.specs.documents import JobDocument, load_document
from mlsched.specs.limits import check_environment
from mlsched.specs.names import derive_base
from mlsched.specs.sources import FILE_ANNOTATION
from mlsched.units import format_bytes

Finder = Callable[[str], Awaitable[list[Job]]]


class Request:
    """One submit or preview request, read and checked.

    Args:
        args: ``document``, and perhaps ``idempotency_key``, ``user``, ``environment``, ``workdir``.

    Raises:
        SpecError: the document or an argument is wrong.
    """

    def __init__(self, args: Mapping[str, Any]) -> None:
        document = args.get("document")
        if not isinstance(document, dict):
            raise SpecError("submit needs a document: an MLJob as a JSON object.")
        self.document: JobDocument = load_document(document)
        self.key = str(args.get("idempotency_key") or "")
        self.user = str(args.get("user") or "")
        self.environment: dict[str, str] = read_argument(args, "environment", VARIABLES, {})
        check_environment(self.environment, "environment")
        self.workdir = str(args.get("workdir") or "/")
        if len(self.key) > 256:
            raise SpecError("an idempotency key has at most 256 characters.")

    @property
    def spec(self) -> JobSpec:
        """The spec with an absolute working directory."""
        spec = self.document.spec
        return replace(spec, workdir=str(PurePath(self.workdir, spec.workdir)))


def refuse_what_never_fits(spec: JobSpec, ledger: Ledger) -> None:
    """Refuse a request that no empty machine here could hold.

    Raises:
        NeverFitsError: with what was asked for and what exists.
    """
    reason = never_fits((need_of(spec),) * spec.nodes, ledger)
    if reason is not None:
        it = "it " if reason.message.startswith(("asks ", "runs ")) else ""
        raise NeverFitsError(
            f"this job can never run here: {it}{reason.message}.",
            "Ask for less, or run 'mlsched gpus' to see what there is.",
        )


def check_room(state_dir: Path, free_bytes_min: int) -> None:
    """Refuse new jobs while there is no room for the ends of those that run.

    Raises:
        StoreFullError: with what is free and what is needed.
    """
    free = shutil.disk_usage(state_dir)
    needed = min(free_bytes_min, free.total // 20)
    if free.free < needed:
        raise StoreFullError(
            f"{state_dir} has {format_bytes(free.free)} free, and new jobs need "
            f"{format_bytes(needed)}: the ends of running jobs must still find room.",
            "Free some space and try again. Nothing was accepted, nothing was lost.",
        )


async def build(request: Request, find: Finder, now_ms: int) -> Submission:
    """The jobs of a request, ready for the store, which gives them names and numbers.

    Raises:
        SpecError: a dependency does not exist.
    """
    spec = request.spec
    after = await resolve_dependencies(spec.after, find)
    base = derive_base(spec, request.document.metadata.annotations.get(FILE_ANNOTATION, ""))
    first = Job(
        id=uuid.uuid4().hex,
        name="",
        seq=0,
        spec=spec,
        submitted_at_ms=now_ms,
        after=after,
        idempotency_key=request.key,
        user=request.user,
    )
    jobs = tuple(_elements(first)) if spec.array is not None else (first,)
    return Submission(jobs, request.document.metadata.name, base, request.environment, request.key)


def _elements(first: Job) -> Iterable[Job]:
    array = first.spec.array
    if array is None:
        return
    array_id = uuid.uuid4().hex
    size = len(array.indices)
    for index in array.indices:
        membership = ArrayMembership(array_id, "", index, size, array.max_parallel)
        yield replace(first, id=uuid.uuid4().hex, array=membership)


async def resolve_dependencies(
    after: Iterable[Dependency], find: Finder
) -> tuple[ResolvedDependency, ...]:
    """Dependencies by id; a whole array is one dependency, on its last element's end.

    Raises:
        SpecError: a job that is named does not exist.
    """
    resolved = []
    for dependency in after:
        found = await find(dependency.job)
        if not found:
            raise SpecError(
                f"after: there is no job {dependency.job[:80]!r}.",
                "Run 'mlsched ls --all' to see the names.",
            )
        first = found[0]
        whole = first.array if first.array and dependency.job != first.name else None
        is_array = whole is not None and dependency.job in (whole.name, whole.array_id)
        job_id, name = (
            (whole.array_id, whole.name) if whole and is_array else (first.id, first.name)
        )
        resolved.append(ResolvedDependency(job_id, name, dependency.condition))
    return tuple(resolved)


def not_found(text: str) -> NotFoundError:
    """The error for a name that stands for no job."""
    shown = text[:80].encode("unicode_escape").decode("ascii")
    return NotFoundError(f"there is no job {shown!r}.", "Run 'mlsched ls --all' to see the names.")
