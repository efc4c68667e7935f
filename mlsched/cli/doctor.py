"""``mlsched doctor``: is everything here as it must be, and if not, what to do."""

from __future__ import annotations

from mlsched.cli.session import Session


def doctor(session: Session) -> int:
    """Check Python, directories, disk, SQLite, service, limits, GPUs and clock.

    Exit code 1 when a check fails; warnings leave it at 0.
    """
    from mlsched.cli.checks import run_checks

    found = run_checks(session.client)
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


def _advice(advice: str) -> str:
    return f" -> {advice}" if advice else ""
