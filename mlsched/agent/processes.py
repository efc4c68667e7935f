"""The agent as a process: signals, its log, and what it ends with."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TextIO

from mlsched.adapters.kubernetes.apis import Api
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.gpunodes import GpuNodePublisher
from mlsched.adapters.kubernetes.holders import read_holders
from mlsched.adapters.local.processes import read_boot_id
from mlsched.agent.agents import Agent, AgentSettings
from mlsched.runtime.telling import tell_into


def serve_agent(
    access: Access, node: str, pod_resources: str, settings: AgentSettings, log: TextIO
) -> int:
    """Read and publish the GPUs of a node until SIGTERM or SIGINT; returns the exit code.

    Args:
        access: As the agent.
        node: Name of the node that it runs on.
        pod_resources: Socket of the kubelet.
        settings: How often it does what.
        log: Takes a line for each problem.
    """
    return asyncio.run(_serve(access, node, pod_resources, settings, log))


async def _serve(
    access: Access, node: str, pod_resources: str, settings: AgentSettings, log: TextIO
) -> int:
    tell = tell_into(log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tell(f"mlsched agent of node {node} publishes to {access.server}")
    api = Api(access)
    publisher = GpuNodePublisher(api, node)
    holders = partial(read_holders, pod_resources)
    try:
        await Agent(settings, publisher, holders, read_boot_id(), tell).run(stop)
    finally:
        await api.close()
    tell("ends: it was asked to")
    return 0
