"""How an attempt ended whose supervisor is gone: by its record, else by what can be found out.

Exit evidence wins: whatever the supervisor recorded before it died is the truth. Called by
`nodes.LocalNode` in a worker thread, when a supervisor has ended or was found dead.
"""

from __future__ import annotations

import time

from msgspec import Struct

from mlsched.adapters.local.attempts import AttemptDirectory, Claim, Started
from mlsched.adapters.local.leftovers import kill_leftovers
from mlsched.adapters.local.processes import ProcessIdentity, is_alive, read_boot_id
from mlsched.adapters.local.supervisor.runs import EXIT_TEMPORARY
from mlsched.adapters.local.supervisor.trees import Process
from mlsched.model.jobs import EndCause, Outcome


class Stuck(Struct, frozen=True):
    """The supervisor is gone, and these processes of its attempt cannot be killed."""

    processes: list[Process]


def conclude(
    directory: AttemptDirectory,
    status: int | None,
    earlier: Stuck | None = None,
    *,
    fresh: bool,
) -> tuple[Started | None, Outcome] | ProcessIdentity | Stuck:
    """The start, if there was one, and the end of an attempt that nobody supervises any more.

    Nothing is done to an attempt that has a living supervisor: its identity is returned. An
    attempt that nobody has claimed is taken back. One whose processes cannot be killed has not
    ended, since they hold what it holds: ask again.

    Args:
        status: How the supervisor ended, where it was our own child.
        earlier: What the last call gave, if that was it.
        fresh: Its death was seen as it happened, a moment ago.

    Raises:
        OSError: the disk does not answer; ask again.
    """
    started = directory.read_started()
    outcome = directory.read_outcome()
    if outcome is not None:
        return started, outcome
    claim = directory.read_claim()
    if claim is None and (not directory.has_launch() or directory.revoke()):
        return None, _never_claimed(directory, status)
    claim = claim or directory.read_claim() or Claim()
    if claim.is_revoked:
        return None, _outcome(EndCause.REVOKED, "its launch was taken back before it began")
    if claim.identity is not None and is_alive(claim.identity):
        return claim.identity
    known = earlier.processes if earlier else []
    # Nothing outlives a boot, and ids begin again with each: whoever has one is a stranger.
    is_past = claim.identity is not None and claim.identity.boot_id != read_boot_id()
    if left := [] if is_past else kill_leftovers(directory, fresh=fresh, known=known):
        return Stuck(left)
    return started, directory.read_outcome() or _lost(claim)


def _never_claimed(directory: AttemptDirectory, status: int | None) -> Outcome:
    """Nothing ran. A supervisor that says so by its exit code had a reason."""
    if status == EXIT_TEMPORARY:
        return _outcome(EndCause.REVOKED, "the disk is full: it is started again later")
    if status is not None and status > 0:
        log = directory.read_supervisor_log()
        return _outcome(EndCause.CANNOT_START, f"its supervisor could not begin: {log}")
    return _outcome(EndCause.REVOKED, "its launch was taken back before it began")


def _lost(claim: Claim) -> Outcome:
    """It ran, and nobody recorded its end."""
    if claim.identity is None or claim.identity.boot_id != read_boot_id():
        return _outcome(EndCause.NODE_REBOOTED, "the machine restarted while it ran")
    message = "its supervisor was killed; what was left of the job was killed too"
    return _outcome(EndCause.SUPERVISOR_LOST, message)


def _outcome(cause: EndCause, message: str) -> Outcome:
    return Outcome(cause, message=message, ended_at_ms=time.time_ns() // 1_000_000)
