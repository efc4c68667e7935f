"""``mlsched doctor``: is everything here as it must be, and if not, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsched.cli.session import Session

if TYPE_CHECKING:
    from mlsched.cli.checks import Check


def doctor(session: Session) -> int:
    """Check Python, directories, disk, SQLite, service, limits, GPUs and clock.

    In a cluster: the API server, what is installed there, your rights, and the controller.

    Exit code 1 when a check fails; warnings leave it at 0.
    """
    found = _run(session)
    rows = [check.to_dict() for check in found]

    def text() -> str:
        from mlsched.cli.render.tables import format_table

        cells = [[one.state, one.name, one.told + _advice(one.advice)] for one in found]
        return format_table(
            ("STATE", "CHECK", "FOUND"),
            cells,
            color=session.has_color(),
            heads=session.headers,
        )

    session.emit(rows, text, [one.name for one in found if one.state != "ok"])
    return 1 if any(one.state == "fail" for one in found) else 0


def _run(session: Session) -> list[Check]:
    """The checks of where requests go."""
    client = session.client
    if not session.is_local:
        from mlsched.api.clusters.clients import ClusterClient
        from mlsched.cli.cluster_checks import run_cluster_checks

        if isinstance(client, ClusterClient):
            return run_cluster_checks(client)
    from mlsched.cli.checks import run_checks

    return run_checks(client)


def _advice(advice: str) -> str:
    return f" -> {advice}" if advice else ""
