"""``mlsched server``: the service behind the commands. It starts by itself; this is for looking."""

from __future__ import annotations

import time
from typing import Any

from mlsched.api.client import Client
from mlsched.cli.catalogue import Entry
from mlsched.cli.session import Session

COMMANDS = {
    "start": Entry("mlsched.cli.server:start", "Start the service, if it does not run."),
    "status": Entry("mlsched.cli.server:status", "Show whether it runs, and where its things are."),
    "stop": Entry("mlsched.cli.server:stop", "End the service; jobs go on."),
}

STOP_S_MAX = 20.0


def start(session: Session) -> int:
    """Start the service; every command that needs it does so too."""
    return _emit(session, session.client.call("ping"))


def status(session: Session) -> int:
    """Show the service; exit code 104 when it does not run."""
    return _emit(session, _quiet(session).call("ping"))


def stop(session: Session) -> int:
    """End the service and wait until it is gone. Jobs go on, and the next command finds them."""
    from mlsched.errors import UnreachableError

    client = _quiet(session)
    if not client.is_running():
        session.emit({"stopped": False}, lambda: "the service does not run.")
        return 0
    client.call("stop")
    deadline = time.monotonic() + STOP_S_MAX
    while client.is_running():
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"the service has not ended within {STOP_S_MAX:g} s.",
                f"Its log is {client.paths.service_log}.",
            )
        time.sleep(0.02)
    session.emit({"stopped": True}, lambda: "the service has ended; jobs go on.")
    return 0


def _quiet(session: Session) -> Client:
    """A client that starts nothing."""
    return Client(session.client.paths, autostart=False)


def _emit(session: Session, found: dict[str, Any]) -> int:
    def text() -> str:
        from mlsched.cli.render.tables import format_pairs
        from mlsched.cli.render.texts import format_local

        return format_pairs(
            [
                ("Process", str(found["pid"])),
                ("Version", found["version"]),
                ("Since", format_local(found["started_at"])),
                ("Jobs", f"{found['jobs_active']} active"),
                ("Socket", found["socket"]),
                ("Database", found["database"]),
                ("State", found["state_dir"]),
                ("Log", str(session.client.paths.service_log)),
            ]
        )

    session.emit(found, text, [str(found["pid"])])
    return 0
