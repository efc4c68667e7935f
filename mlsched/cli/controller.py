"""``mlsched controller``: schedule a Kubernetes cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

LEASE_S_MAX = 3600
"""A Lease has whole seconds above 0; more than an hour would leave a cluster alone for too long."""

app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def controller(  # noqa: PLR0913 - one parameter an option
    ctx: typer.Context,
    *,
    kubeconfig: Annotated[
        str, typer.Option("--kubeconfig", metavar="FILE", help="In place of KUBECONFIG.")
    ] = "",
    context: Annotated[
        str, typer.Option("--context", "-c", metavar="NAME", help="Which context of it.")
    ] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Where its lease is.")
    ] = "",
    image: Annotated[
        str, typer.Option("--image", metavar="IMAGE", help="For jobs that name none.")
    ] = "",
    layer_rules: Annotated[
        list[str] | None,
        typer.Option(
            "--layer-rule",
            metavar="LABEL[=VALUE]:LAYER",
            help="Nodes with this label are of this layer; the first rule that fits counts.",
        ),
    ] = None,
    dra_drivers: Annotated[
        list[str] | None,
        typer.Option(
            "--dra-driver",
            metavar="NAME[=CLASS]",
            help="A DRA driver of GPUs, and its DeviceClass where that is called otherwise.",
        ),
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(help="How long a lease lasts that nobody renews.")
    ] = 15.0,
) -> None:
    """Schedule a cluster until it is stopped. Several may run: one is active at a time.

    In a pod without a kubeconfig it works as the pod's service account.

    Examples: mlsched controller -c prod; mlsched controller crds | kubectl apply -f -
    """
    if ctx.invoked_subcommand:
        return
    from mlsched.adapters.kubernetes.configs import load_access
    from mlsched.adapters.kubernetes.leases import Timing
    from mlsched.errors import SpecError
    from mlsched.server.clusters import ClusterSettings
    from mlsched.server.processes import serve_cluster

    if not 1 <= lease_seconds <= LEASE_S_MAX:
        raise SpecError(f"--lease-seconds: expected 1 to {LEASE_S_MAX}, found {lease_seconds:g}.")
    access = load_access(kubeconfig, context)
    settings = ClusterSettings(
        namespace=namespace or access.namespace,
        image=image,
        layers=tuple(read_rule(text) for text in layer_rules or ()),
        **read_drivers(dra_drivers or ()),
        timing=Timing(lease_seconds, lease_seconds * 2 / 3, lease_seconds * 2 / 15),
    )
    raise typer.Exit(serve_cluster(access, settings, sys.stderr))


def read_drivers(texts: Sequence[str]) -> dict[str, Any]:
    """The settings of ``gpu.example.com`` or ``gpu.example.com=gpus``, besides the usual drivers.

    Raises:
        SpecError: not of that form.
    """
    from mlsched.adapters.kubernetes.slices import DRIVERS
    from mlsched.errors import SpecError

    pairs = [text.partition("=") for text in texts]
    for text, (driver, equals, name) in zip(texts, pairs, strict=True):
        if not driver or (equals and not name):
            raise SpecError(
                f"--dra-driver: expected NAME or NAME=CLASS, found {text[:60]!r}.",
                "Such as --dra-driver gpu.example.com=gpus.",
            )
    drivers = dict.fromkeys((*DRIVERS, *(driver for driver, _, _ in pairs)))
    classes = tuple((driver, name) for driver, _, name in pairs if name)
    return {"drivers": tuple(drivers), "device_classes": classes}


def read_rule(text: str) -> Any:
    """The rule of ``pool=cpu:data`` or ``nvidia.com/gpu.present:gpu``.

    Raises:
        SpecError: not of that form.
    """
    from mlsched.adapters.kubernetes.nodes import LayerRule
    from mlsched.errors import SpecError

    selector, colon, layer = text.rpartition(":")
    label, _, value = selector.partition("=")
    if not (colon and label and layer):
        raise SpecError(
            f"--layer-rule: expected LABEL=VALUE:LAYER or LABEL:LAYER, found {text[:60]!r}.",
            "Such as --layer-rule pool=cpu:data.",
        )
    return LayerRule(label, value, layer)


@app.command()
def crds(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FORM", help="yaml or json.")
    ] = "yaml",
) -> None:
    """Print the definitions of MLJob, MLQueue and GPUNode.

    Install or renew them with: mlsched controller crds | kubectl apply --server-side -f -
    """
    from mlsched.cli.render.documents import to_json
    from mlsched.cli.session import write
    from mlsched.errors import SpecError
    from mlsched.specs.crds import build_crds
    from mlsched.specs.documents import to_yaml

    if output not in ("yaml", "json"):
        raise SpecError(f"--output: expected yaml or json, found {output[:40]!r}.")
    found = build_crds()
    if output == "json":
        write(to_json({"apiVersion": "v1", "kind": "List", "items": found}))
    else:
        write("---\n".join(to_yaml(one) for one in found).rstrip("\n"))
