"""``mlsched context``: where jobs go. Only this machine exists so far."""

from __future__ import annotations

from typing import Annotated

import typer

from mlsched.cli.catalogue import Entry
from mlsched.cli.session import LOCAL, Session, check_context

CONTEXTS = [{"name": LOCAL, "kind": "this machine", "current": True}]

COMMANDS = {
    "ls": Entry("mlsched.cli.context:list_contexts", "List the contexts."),
    "use": Entry("mlsched.cli.context:use", "Make a context the current one."),
    "show": Entry("mlsched.cli.context:show", "Show the current context."),
}


def list_contexts(session: Session) -> int:
    """List the contexts; a star marks the current one."""

    def text() -> str:
        from mlsched.cli.render.tables import format_table

        return format_table(
            ("", "NAME", "KIND"), [["*", LOCAL, "this machine"]], heads=session.headers
        )

    session.emit(CONTEXTS, text, [LOCAL])
    return 0


def use(session: Session, name: Annotated[str, typer.Argument(metavar="NAME")]) -> int:
    """Make a context the current one; ``local`` always is, until there are others."""
    check_context(name)
    session.emit(CONTEXTS[0], lambda: f"{name} is the current context.", [name])
    return 0


def show(session: Session) -> int:
    """Show the current context and its service."""
    found = {**CONTEXTS[0], "socket": str(session.client.paths.socket)}
    session.emit(found, lambda: f"{LOCAL}: this machine, socket {found['socket']}", [LOCAL])
    return 0
