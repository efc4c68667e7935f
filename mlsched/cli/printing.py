"""Prints the output of jobs for ``logs``: what is there, or as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from mlsched.api.following import Follower
from mlsched.api.logfiles import find_ranks
from mlsched.api.logs import Record, last_lines, read_attempt
from mlsched.cli.following import prefix_of, print_output, tell_detached
from mlsched.cli.render.outputs import Printer
from mlsched.cli.session import Session
from mlsched.errors import NotFoundError
from mlsched.model.resources import world_size
from mlsched.specs.documents import load_document

JsonObject = dict[str, Any]


class Selection(Struct, frozen=True):
    """Which records, and how they are printed."""

    rank: int | None = None
    tail: int | None = None
    since: str = ""
    only_stderr: bool = False
    timestamps: bool = False
    escape: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether everything is wanted."""
        return self.rank is None and self.tail is None and not (self.since or self.only_stderr)

    def takes(self, record: Record) -> bool:
        """Whether a record is wanted."""
        return record.at >= self.since and not (self.only_stderr and record.stream == "stdout")


def _has_several_ranks(job: JsonObject, chosen: Selection) -> bool:
    return chosen.rank is None and world_size(load_document(job["document"]).spec) > 1


def print_logs(directory: Path | None, chosen: Selection, job: JsonObject) -> None:
    """Print what an attempt has written so far.

    Raises:
        NotFoundError: the rank has no output, or the job is an array.
    """
    if job.get("array"):
        raise NotFoundError(
            f"{job['name']} is an array.", f"Name one of its jobs, such as '{job['name']}[0]'."
        )
    if directory is None:
        return
    if chosen.rank is not None and chosen.rank not in find_ranks(directory):
        raise NotFoundError(f"{job['name']} has no output of rank {chosen.rank}.")
    several = _has_several_ranks(job, chosen)
    printer = _printer(chosen, prefixed=several)
    prefix = prefix_of(job, several_jobs=False, several_ranks=several)
    for record in _select(directory, chosen, blocks=not printer.by_line):
        printer.print(record, prefix(record.rank))
    printer.finish()


def _select(directory: Path, chosen: Selection, *, blocks: bool) -> Iterator[Record]:
    tail = None if chosen.only_stderr else chosen.tail
    blocks = blocks and chosen.tail is None
    records = read_attempt(directory, chosen.rank, tail=tail, since=chosen.since, blocks=blocks)
    wanted = (record for record in records if chosen.takes(record))
    if chosen.only_stderr and chosen.tail is not None:
        return iter(last_lines(wanted, chosen.tail))
    return wanted


def _printer(chosen: Selection, *, prefixed: bool) -> Printer:
    return Printer(
        split=False, timestamps=chosen.timestamps, escape=chosen.escape, prefixed=prefixed
    )


def follow_logs(session: Session, job: JsonObject, chosen: Selection) -> int:
    """Print output as it comes until the job ends; 130 when Ctrl-C leaves."""
    several_jobs, several_ranks = bool(job.get("array")), _has_several_ranks(job, chosen)
    printer = _printer(chosen, prefixed=several_jobs or several_ranks)
    pending_tail = chosen.tail is not None and not several_jobs and job["attempt"] > 0
    try:
        follower = Follower(
            session.client,
            [job["id"]],
            rank=chosen.rank,
            tail=chosen.tail if pending_tail else None,
            newest_only=True,
            blocks=not printer.by_line,
        )
        print_output(
            session, follower, printer,
            several_jobs=several_jobs, several_ranks=several_ranks, takes=chosen.takes,
        )  # fmt: skip
    except KeyboardInterrupt:
        return tell_detached(session, job)
    return 0
