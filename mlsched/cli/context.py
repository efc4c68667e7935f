"""``mlsched context``: where jobs go: this machine, or a cluster of the kubeconfig."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlsched.cli.catalogue import Entry
from mlsched.cli.session import Session

LOCAL = "local"
IN_CLUSTER = "in-cluster"

COMMANDS = {
    "ls": Entry("mlsched.cli.context:list_contexts", "List the contexts."),
    "use": Entry("mlsched.cli.context:use", "Make a context the current one."),
    "show": Entry("mlsched.cli.context:show", "Show the current context."),
}

JsonObject = dict[str, Any]


def list_contexts(session: Session) -> int:
    """List the contexts; a star marks the current one."""
    found = _contexts(session.asked_context)

    def text() -> str:
        from mlsched.cli.render.tables import format_table

        cells = [
            ["*" if one["current"] else "", one["name"], one["kind"], one["cluster"] or "-",
             one["namespace"] or "-"]
            for one in found
        ]  # fmt: skip
        heads = ("", "NAME", "KIND", "CLUSTER", "NAMESPACE")
        return format_table(heads, cells, heads=session.headers)

    session.emit(found, text, [one["name"] for one in found])
    current = session.asked_context
    if current not in (IN_CLUSTER, *(one["name"] for one in found)):
        session.tell(f"the current context {current[:60]!r} is none of these.")
    return 0


def _contexts(current: str) -> list[JsonObject]:
    from mlsched.adapters.kubernetes.configs import read_contexts

    known = read_contexts()
    rows = [_row(LOCAL, "this machine", "", "", current)]
    rows += [
        _row(name, "kubernetes", known.clusters[name], namespace or "default", current)
        for name, namespace in known.namespaces.items()
        if name != LOCAL
    ]
    return rows


def _row(name: str, kind: str, cluster: str, namespace: str, current: str) -> JsonObject:
    return {
        "name": name,
        "kind": kind,
        "cluster": cluster,
        "namespace": namespace,
        "current": name == current,
    }


def use(session: Session, name: Annotated[str, typer.Argument(metavar="NAME")]) -> int:
    """Make a context the current one, in config.toml; local is this machine."""
    import os

    from mlsched.api.contexts import CONTEXT_VARIABLE, check_context, write_current

    check_context(name)
    write_current(session.paths.config_file, name)
    found = next(one for one in _contexts(name) if one["name"] == name)
    session.emit(found, lambda: f"{name} is the current context.", [name])
    if os.environ.get(CONTEXT_VARIABLE):
        session.tell(f"{CONTEXT_VARIABLE} is set, and decides in this shell.")
    return 0


def show(session: Session) -> int:
    """Show the current context, and its service or its API server."""
    if session.is_local:
        found = {**_contexts(LOCAL)[0], "socket": str(session.paths.socket)}
        session.emit(found, lambda: f"{LOCAL}: this machine, socket {found['socket']}", [LOCAL])
        return 0
    from mlsched.api.clusters.clients import ClusterClient

    client = session.client
    if not isinstance(client, ClusterClient):
        raise AssertionError(f"{session.context} is no cluster")
    server = client.connections.access.server
    found = {"name": client.context, "kind": "kubernetes", "current": True}
    found |= {"server": server, "namespace": client.namespace}
    text = f"{client.context}: {server}, namespace {client.namespace}"
    session.emit(found, lambda: text, [client.context])
    return 0
