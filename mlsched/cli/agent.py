"""``mlsched agent``: publish the GPUs of a node of a Kubernetes cluster."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import typer

TIME_S_MAX = 86_400
SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"


def agent(
    *,
    node: Annotated[
        str, typer.Option("--node", envvar="NODE_NAME", help="The node that it runs on.")
    ] = "",
    kubeconfig: Annotated[
        str, typer.Option("--kubeconfig", metavar="FILE", help="In place of KUBECONFIG.")
    ] = "",
    context: Annotated[
        str, typer.Option("--context", "-c", metavar="NAME", help="Which context of it.")
    ] = "",
    period: Annotated[
        float,
        typer.Option("--period", min=0.1, max=TIME_S_MAX, help="Seconds between two readings."),
    ] = 10.0,
    heartbeat: Annotated[
        float,
        typer.Option(
            "--heartbeat", min=1, max=TIME_S_MAX, help="Seconds without a change between two."
        ),
    ] = 300.0,
    pod_resources: Annotated[
        str, typer.Option("--pod-resources", metavar="SOCKET", help="Of the kubelet.")
    ] = SOCKET,
) -> None:
    """Publish the GPUs of this node as a GPUNode, until it is stopped.

    Runs once on each node with GPUs; in a pod as its service account.

    Examples: mlsched agent --node gpu-7; kubectl get gpunodes
    """
    from mlsched.adapters.kubernetes.configs import load_access
    from mlsched.agent.agents import AgentSettings
    from mlsched.agent.processes import serve_agent
    from mlsched.errors import SpecError

    if math.isnan(period) or math.isnan(heartbeat):
        raise SpecError("--period, --heartbeat: expected seconds, found nan.")
    if not node:
        raise SpecError(
            "which node this is is not known: expected --node, or NODE_NAME in the environment.",
            "In a pod, set NODE_NAME from the field spec.nodeName.",
        )
    access = load_access(kubeconfig, context)
    settings = AgentSettings(period_s=period, heartbeat_s=heartbeat)
    raise typer.Exit(serve_agent(access, node, pod_resources, settings, sys.stderr))
