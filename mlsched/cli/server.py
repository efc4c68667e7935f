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
    _refuse_cluster(session)
    return _emit(session, session.client.call("ping"))


def status(session: Session) -> int:
    """Show the service; exit code 104 when it does not run."""
    if not session.is_local:
        return _emit_cluster(session, session.client.call("ping"))
    return _emit(session, _quiet(session).call("ping"))


def stop(session: Session) -> int:
    """End the service and wait until it is gone. Jobs go on, and the next command finds them."""
    from mlsched.errors import UnreachableError

    _refuse_cluster(session)
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
    return Client(session.paths, autostart=False)


def _refuse_cluster(session: Session) -> None:
    if not session.is_local:
        from mlsched.errors import ConfigError

        raise ConfigError(
            f"{session.context} is a cluster, whose controller runs inside it.",
            "'mlsched server status' shows it; with -c local this is about this machine.",
        )


def _emit_cluster(session: Session, found: dict[str, Any]) -> int:
    """The API server and the controller; exit code 104 when none is known to work."""
    holder = {None: "unknown: you may not list leases", "": "none: nothing is placed"}

    def text() -> str:
        from mlsched.cli.render.tables import format_pairs

        return format_pairs(
            [
                ("Context", found["context"]),
                ("Namespace", found["namespace"]),
                ("API server", found["server"]),
                ("Kubernetes", found["kubernetes"]),
                ("Controller", holder.get(found["controller"], found["controller"])),
            ]
        )

    session.emit(found, text, [found["context"]])
    return 104 if found["controller"] == "" else 0


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
                ("Log", str(session.paths.service_log)),
            ]
        )

    session.emit(found, text, [str(found["pid"])])
    return 0
