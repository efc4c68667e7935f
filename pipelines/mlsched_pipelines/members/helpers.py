"""Helper processes of rank 0: started before the driver's run, ended after it, whatever ends it.

``python -m mlsched_pipelines.members.helpers ENGINE ROLE MEMBER HANDLE``. The
token comes by the environment.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module

import msgspec

from mlsched.errors import MlschedError, UnreachableError
from mlsched_pipelines.members import ENGINES, MEMBERS_S_MAX, Member

READY = b"ready\n"
LEAVE_S_MAX = 10.0
"""A helper that is told to end may take this long, then it is killed."""

_decode_member = msgspec.json.Decoder(Member).decode


@contextmanager
def helped(engine: str, roles: Sequence[str], member: Member) -> Iterator[None]:
    """Run helpers for the length of a with statement, which begins once all members have joined.

    Raises:
        UnreachableError: a helper ended, or some member has not joined in time.
    """
    started: list[subprocess.Popen[bytes]] = []
    words: list[int] = []
    try:
        for role in roles:
            read_end, write_end = os.pipe()
            words.append(read_end)
            try:
                started.append(_start(engine, role, member, write_end))
            finally:
                os.close(write_end)
        _await_ready(words, member)
        yield
    finally:
        _end(started)
        for handle in words:
            os.close(handle)


def _start(engine: str, role: str, member: Member, handle: int) -> subprocess.Popen[bytes]:
    """Start one; what users' code prints in it goes to our standard error."""
    words = [engine, role, msgspec.json.encode(member).decode(), str(handle)]
    return subprocess.Popen(
        [sys.executable, "-m", "mlsched_pipelines.members.helpers", *words],
        stdin=subprocess.PIPE,
        stdout=2,
        pass_fds=[handle],
    )


def _await_ready(words: Sequence[int], member: Member) -> None:
    """Wait for the word of the first helper, as long as all live."""
    until = time.monotonic() + MEMBERS_S_MAX
    with selectors.DefaultSelector() as selector:
        for handle in words:
            selector.register(handle, selectors.EVENT_READ)
        while left_s := max(0.0, until - time.monotonic()):
            for found, _ in selector.select(left_s):
                if os.read(found.fd, len(READY)) == READY:
                    return
                raise UnreachableError(
                    "The cluster of this job did not come up: one of its processes ended.",
                    "What it printed stands above.",
                )
    raise UnreachableError(
        f"Not all {member.size} members of this job joined within {MEMBERS_S_MAX:.0f} s.",
        "See the output of the other ranks, and what their nodes say.",
    )


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell all of them to end, the first one first, and wait until they have."""
    until = time.monotonic() + LEAVE_S_MAX
    for process in started:
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tell_ready(handle: int) -> None:
    """Tell rank 0 that all members have joined; from a helper. It may be gone."""
    with suppress(OSError):
        os.write(handle, READY)


def await_end() -> None:
    """Wait until rank 0 closes our standard input, or is gone; from a helper."""
    while os.read(0, 4096):
        continue


def main(words: Sequence[str]) -> int:
    """Run one helper.

    Returns:
        Its exit code.
    """
    engine, role, text, handle = words
    # They are for the driver, which ends us. Programs that we start do not inherit a handler.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    if engine not in ENGINES:
        raise ValueError(f"expected one of {ENGINES}, found {engine!r}")
    try:
        module = import_module(f"mlsched_pipelines.members.{engine}")
        return int(module.run(role, _decode_member(text), int(handle)))
    except MlschedError as error:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
