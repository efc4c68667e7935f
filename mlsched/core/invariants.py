"""The laws that hold after every step; checked by the simulator, by tests and in production.

Production checks what a step changed, tests and simulations everything.

Each law returns the sentences that say how it was broken; none means that it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from mlsched.core.ledger import Ledger
from mlsched.errors import InvariantError
from mlsched.model.jobs import Job, JobState, count_groups
from mlsched.model.reasons import Reason


def one_holder_a_device(jobs: Iterable[Job]) -> list[str]:
    """No device is given to two jobs, or twice to one."""
    holders: dict[str, str] = {}
    broken: list[str] = []
    for job in jobs:
        for group in job.placements:
            for uuid in group.devices:
                if uuid in holders:
                    broken.append(f"{uuid} is held by {holders[uuid]} and {job.name}")
                holders[uuid] = job.name
    return broken


def gang_whole_or_absent(jobs: Iterable[Job]) -> list[str]:
    """A job holds all of its groups, or nothing; only placed jobs hold anything."""
    broken: list[str] = []
    for job in jobs:
        wanted = count_groups(job) if job.state.is_placed else 0
        if len(job.placements) != wanted:
            broken.append(f"{job.name} is {job.state} with {len(job.placements)} groups")
    return broken


def ledger_is_derived(jobs: Iterable[Job], ledger: Ledger) -> list[str]:
    """The ledger holds exactly what the placed jobs hold."""
    placed = {job.id: job.placements for job in jobs if job.state.is_placed}
    held = dict(ledger.held)
    return [] if placed == held else [f"placed {sorted(placed)}, held {sorted(held)}"]


def within_capacity(ledger: Ledger) -> list[str]:
    """No node has more given away than it has."""
    return [
        f"{name}: {ledger.free_milli_cpus(name)} milli-CPU, {ledger.free_memory_bytes(name)} B"
        for name in ledger.nodes
        if ledger.free_milli_cpus(name) < 0 or ledger.free_memory_bytes(name) < 0
    ]


def every_pending_job_has_a_reason(jobs: Iterable[Job], reasons: Mapping[str, Reason]) -> list[str]:
    """A job that waits says why."""
    return [
        f"{job.name} waits without a reason"
        for job in jobs
        if job.state is JobState.PENDING and job.id not in reasons
    ]


def check_placed(placed: Collection[Job], ledger: Ledger) -> None:
    """Check the laws on all that holds something.

    Raises:
        InvariantError: names the first law that is broken.
    """
    _demand("one holder a device", one_holder_a_device(placed))
    _demand("gang whole or absent", gang_whole_or_absent(placed))
    _demand("ledger is derived", ledger_is_derived(placed, ledger))


def changes_are_in_the_ledger(changed: Iterable[Job], ledger: Ledger) -> list[str]:
    """Each of these jobs holds in the ledger what its record says, every device by itself."""
    broken: list[str] = []
    for job in changed:
        placements = job.placements if job.state.is_placed else ()
        if ledger.held.get(job.id, ()) != placements:
            broken.append(f"{job.name} is {job.state}, and the ledger has something else")
        for group in placements:
            for uuid in group.devices:
                if not ledger.is_held_by(uuid, job.id):
                    broken.append(f"{uuid} is held by {ledger.holder_of(uuid)} and {job.name}")
    return broken


def check_changed(changed: Collection[Job], placed_count: int, ledger: Ledger) -> None:
    """Check the laws on what changed in a step, which held before it; cheap on any cluster.

    Args:
        changed: The newest version of every job that changed.
        placed_count: How many jobs hold something after the step.

    Raises:
        InvariantError: names the first law that is broken.
    """
    _demand("gang whole or absent", gang_whole_or_absent(changed))
    _demand("ledger is derived", changes_are_in_the_ledger(changed, ledger))
    if len(ledger.held) != placed_count:
        text = f"{placed_count} jobs are placed, and {len(ledger.held)} hold something"
        _demand("ledger is derived", [text])


def check_all(jobs: Collection[Job], ledger: Ledger, reasons: Mapping[str, Reason]) -> None:
    """Check every law on every job that has not ended.

    Raises:
        InvariantError: names the first law that is broken.
    """
    check_placed(jobs, ledger)
    _demand("every pending job has a reason", every_pending_job_has_a_reason(jobs, reasons))


def _demand(law: str, broken: list[str]) -> None:
    if broken:
        raise InvariantError(law, broken[0], tuple(broken[1:10]))
