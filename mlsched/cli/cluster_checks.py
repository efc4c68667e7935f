"""The checks of ``mlsched doctor`` for a cluster: the server, what is installed, rights."""

from __future__ import annotations

from collections.abc import Callable

from mlsched.api.clusters.checks import list_kinds, read_lease, read_server, review_rights
from mlsched.api.clusters.clients import ClusterClient
from mlsched.api.clusters.problems import NOT_INSTALLED_HINT, translated
from mlsched.cli.checks import Check, check_python, check_settings, guard

KINDS = ("mljobs", "mlqueues", "gpunodes")


def run_cluster_checks(client: ClusterClient) -> list[Check]:
    """All checks; one that raises is a failed one, never the end of the others."""
    found = [guard("python", check_python, client), guard("settings", check_settings, client)]
    for name, look in CHECKS:
        found.append(guard(name, look, client))
        if name == "API server" and found[-1].state == "fail":
            break
    return found


def _server(client: ClusterClient) -> Check:
    with translated(client.context):
        version = read_server(client.connections)
    address = client.connections.access.server
    return Check("API server", "ok", f"{address}, Kubernetes {version}")


def _namespace(client: ClusterClient) -> Check:
    return Check("namespace", "ok", f"{client.namespace}, of context {client.context}")


def _installed(client: ClusterClient) -> Check:
    with translated(client.context):
        kinds = list_kinds(client.connections)
    missing = [kind for kind in KINDS if kind not in kinds]
    if "mljobs" in missing:
        return Check("installed", "fail", "mlsched is not installed here", NOT_INSTALLED_HINT)
    if missing:
        return Check("installed", "warn", f"not served: {', '.join(missing)}", NOT_INSTALLED_HINT)
    return Check("installed", "ok", ", ".join(sorted(kinds)))


def _rights(client: ClusterClient) -> Check:
    with translated(client.context):
        rights = review_rights(client.connections, client.namespace)
    needed = [one.text for one in rights if one.is_needed and not one.is_allowed]
    if needed:
        told = f"you may not {', '.join(needed)}"
        return Check("rights", "fail", told, "Ask whoever runs the cluster for these.")
    others = [one.text for one in rights if not one.is_allowed]
    if others:
        told = f"you may not {', '.join(others)}"
        return Check("rights", "warn", told, "Without them 'why' and 'gpus' say little.")
    return Check("rights", "ok", "everything that the commands need")


def _controller(client: ClusterClient) -> Check:
    with translated(client.context):
        holder = read_lease(client.connections)
    if holder is None:
        return Check("controller", "ok", "unknown: you may not list leases")
    if not holder:
        return Check(
            "controller", "fail", "no controller holds the lease: nothing is placed",
            "Whoever runs the cluster starts 'mlsched controller'.",
        )  # fmt: skip
    return Check("controller", "ok", holder)


CHECKS: tuple[tuple[str, Callable[[ClusterClient], Check]], ...] = (
    ("API server", _server),
    ("namespace", _namespace),
    ("installed", _installed),
    ("rights", _rights),
    ("controller", _controller),
)
