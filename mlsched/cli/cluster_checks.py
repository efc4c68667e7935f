"""The checks of ``mlsched doctor`` for a cluster: the server, what is installed, rights."""

from __future__ import annotations

from collections.abc import Callable

from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.api.clusters.checks import list_kinds, read_server, review_rights
from mlsched.api.clusters.clients import ClusterClient
from mlsched.api.clusters.leases import ControllerView, read_controller
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
    """Whether it exists, where that may be known; a list of its jobs would only be empty."""
    path = f"/api/v1/namespaces/{client.namespace}"
    with translated(client.context):
        try:
            client.connections.get(path)
        except ApiError as error:
            if error.code != 403:
                raise
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
        found = read_controller(client.connections)
    if found.holder is None:
        return Check("controller", "warn", found.note, "Ask for ClusterRole mlsched-status.")
    if found.trouble:
        advice = "Whoever runs the cluster starts 'mlsched controller'."
        return Check("controller", "fail", found.trouble, advice)
    if len(found.namespaces) > 1:
        return Check(
            "controller", "warn", f"several hold a lease, in {', '.join(found.namespaces)}",
            "One schedules all namespaces: whoever runs the cluster ends the others.",
        )  # fmt: skip
    told = f"{found.holder} in {found.namespaces[0]}; {_settings_text(found)}"
    return Check("controller", "ok", told)


def _settings_text(found: ControllerView) -> str:
    settings = found.settings
    if settings is None:
        return found.note
    rules = [f"{one.label}{'=' if one.value else ''}{one.value}:{one.layer}"
             for one in settings.layer_rules]  # fmt: skip
    told = [
        f"mlsched {settings.version}",
        f"image {settings.image}" if settings.image else "no image for jobs that name none",
        f"layers by {', '.join(rules)}" if rules else "no rules for layers",
        f"DRA drivers {', '.join(settings.dra_drivers) or 'none'}",
    ]
    return "; ".join(told)


CHECKS: tuple[tuple[str, Callable[[ClusterClient], Check]], ...] = (
    ("API server", _server),
    ("namespace", _namespace),
    ("installed", _installed),
    ("rights", _rights),
    ("controller", _controller),
)
