"""A real API server under load: mlsched beside kube-scheduler on the same plane, same pods.

Contenders alternate, each with a fresh etcd; no kubelet takes part, so that nothing but the
contender and the API server works. Binds are seen by a watch of another program. Both of
kube-scheduler's limits are measured and printed; mlsched has none but 64 requests in flight.

    python tests/perf/clusters.py [bind|submit|idle|size] [ROUNDS]
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import aiohttp

from tests.controlplane import binaries
from tests.controlplane.controllers import install
from tests.controlplane.fake_nodes import node
from tests.controlplane.planes import ControlPlane

NODES, PODS = 1000, 4000
TICK = os.sysconf("SC_CLK_TCK")
PODS_PATH = "/api/v1/namespaces/default/pods"
JOBS_PATH = "/apis/mlsched.io/v1alpha1/namespaces/default/mljobs"


def tell(what: str, **figures: Any) -> None:
    """One line of JSON."""
    print(json.dumps({"what": what, **figures}), flush=True)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mb(pid: int) -> float:
    """Resident memory, and the most of it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0


def pod(index: int, scheduler: str) -> dict[str, Any]:
    """A pod of one CPU and one GPU."""
    amounts = {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}
    return {
        "metadata": {"name": f"p-{index}"},
        "spec": {
            "schedulerName": scheduler,
            "containers": [
                {
                    "name": "c",
                    "image": "none",
                    "resources": {"requests": amounts, "limits": {"nvidia.com/gpu": "1"}},
                }
            ],
        },
    }


def job(index: int, gpus: int = 1) -> dict[str, Any]:
    """The same as an MLJob."""
    return {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "metadata": {"name": f"j-{index}"},
        "spec": {"command": ["none"], "image": "none", "gpusPerNode": gpus, "memoryPerNode": "1Gi"},
    }


class Loader:
    """Creates objects from this program."""

    def __init__(self, plane: ControlPlane) -> None:
        self.server = plane.url
        self.headers = {"Authorization": f"Bearer {plane.admin_token}"}

    def session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=False, limit=0)
        return aiohttp.ClientSession(connector=connector, headers=self.headers)

    async def create(
        self, session: aiohttp.ClientSession, path: str, bodies: list[dict[str, Any]]
    ) -> None:
        texts = [json.dumps(body).encode() for body in bodies]
        slots = asyncio.Semaphore(32)
        headers = {"Content-Type": "application/json"}

        async def one(text: bytes) -> None:
            url = self.server + path
            async with slots, session.post(url, data=text, headers=headers) as answer:
                if answer.status != 201:
                    raise RuntimeError(await answer.text())

        await asyncio.gather(*map(one, texts))


class BindWatch:
    """A program beside this one that notes when pods get their nodes."""

    def __init__(self, plane: ControlPlane, count: int) -> None:
        words = [sys.executable, str(Path(__file__).with_name("bind_watch.py"))]
        words += [plane.url + PODS_PATH, str(count)]
        env = dict(os.environ, TOKEN=plane.admin_token)
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self._lines.readline()

    async def times(self) -> tuple[float, float]:
        """When the first and the last was seen, seconds of the monotonic clock; waits for it."""
        lines = await asyncio.to_thread(self._lines.readlines)
        if self._process.wait() != 0:
            raise RuntimeError("the watch of the pods failed: see above")
        first, last = json.loads(lines[-1])
        return first, last


def start_controller(plane: ControlPlane) -> subprocess.Popen[bytes]:
    """The controller as it is shipped."""
    words = [sys.executable, "-m", "mlsched", "controller"]
    words += ["--kubeconfig", str(plane.admin_kubeconfig)]
    log = (plane.directory / "mlsched.log").open("wb")
    return subprocess.Popen(words, stderr=log, stdout=log)


def add_nodes(plane: ControlPlane, count: int) -> None:
    """Nodes of 8 GPUs, ready, that nobody plays."""
    plane.create_all("/api/v1/nodes", [node(f"n-{i}", 8, {}, {}) for i in range(count)])


Contender = Callable[[ControlPlane], int]


def contenders() -> dict[str, Contender]:
    """How each one is started; gives its process id."""

    def mlsched(plane: ControlPlane) -> int:
        return start_controller(plane).pid

    def lifted(plane: ControlPlane) -> int:
        return plane.start_scheduler(5000, 10000).pid

    def shipped(plane: ControlPlane) -> int:
        return plane.start_scheduler(50, 100).pid

    return {"mlsched": mlsched, "kube-scheduler 5000/10000": lifted,
            "kube-scheduler 50/100": shipped}  # fmt: skip


def bind(name: str, begin: Contender, pods: int) -> dict[str, float]:
    """Bind pods that wait already."""
    with ControlPlane(lifted=True) as plane:
        install(plane)
        add_nodes(plane, NODES)
        loader = Loader(plane)
        scheduler = "mlsched" if name == "mlsched" else "default-scheduler"
        return asyncio.run(_bind(plane, loader, begin, [pod(i, scheduler) for i in range(pods)]))


async def _bind(
    plane: ControlPlane, loader: Loader, begin: Contender, pods: list[dict[str, Any]]
) -> dict[str, float]:
    async with loader.session() as session:
        await loader.create(session, PODS_PATH, pods)
        await asyncio.sleep(1)
        watch = BindWatch(plane, len(pods))
        server = plane.apiserver.pid
        server_before = cpu_s(server)
        pid = begin(plane)
        first, last = await watch.times()
        server_s = cpu_s(server) - server_before
        return _figures(len(pods) - 1, last - first, cpu_s(pid), server_s, pid)


def _figures(
    count: int, took_s: float, own_s: float, server_s: float, pid: int
) -> dict[str, float]:
    figures = {
        "pods_per_s": round(count / took_s),
        "cpu_ms_a_pod": round(own_s * 1000 / count, 3),
        "api_server_ms_a_pod": round(server_s * 1000 / count, 3),
        "memory_mb": round(memory_mb(pid)),
    }
    os.kill(pid, signal.SIGKILL)
    return figures


def submit(name: str, begin: Contender, count: int) -> dict[str, float]:
    """Feed work to a contender that waits for it: from the first create to the last pod placed."""
    with ControlPlane(lifted=True) as plane:
        install(plane)
        add_nodes(plane, NODES)
        loader = Loader(plane)
        if name == "mlsched":
            path, bodies = JOBS_PATH, [job(i) for i in range(count)]
        else:
            path, bodies = PODS_PATH, [pod(i, "default-scheduler") for i in range(count)]
        return asyncio.run(_submit(plane, loader, begin, path, bodies))


async def _submit(
    plane: ControlPlane,
    loader: Loader,
    begin: Contender,
    path: str,
    bodies: list[dict[str, Any]],
) -> dict[str, float]:
    async with loader.session() as session:
        pid = begin(plane)
        await asyncio.sleep(5)
        before, server = cpu_s(pid), plane.apiserver.pid
        server_before = cpu_s(server)
        watch = BindWatch(plane, len(bodies))
        begun = time.monotonic()
        await loader.create(session, path, bodies)
        _, last = await watch.times()
        server_s = cpu_s(server) - server_before
        return _figures(len(bodies), last - begun, cpu_s(pid) - before, server_s, pid)


def idle(count: int = 10_000, seconds: int = 60) -> None:
    """Many jobs wait and nothing changes: what that costs."""
    with ControlPlane(lifted=True, audit=True) as plane:
        install(plane)
        add_nodes(plane, 1)
        loader = Loader(plane)

        async def fill() -> None:
            async with loader.session() as session:
                await loader.create(session, JOBS_PATH, [job(i, 8) for i in range(count)])

        process = start_controller(plane)
        asyncio.run(fill())
        time.sleep(10)
        before, lines = cpu_s(process.pid), _writes(plane)
        time.sleep(seconds)
        used = cpu_s(process.pid) - before
        tell(
            f"{count} jobs wait, nothing changes",
            writes_a_minute=round((_writes(plane) - lines) * 60 / seconds, 1),
            cpu_percent=round(used * 100 / seconds, 2),
            memory_mb=round(memory_mb(process.pid)),
        )
        process.kill()


def _writes(plane: ControlPlane) -> int:
    """Writes in the audit log but those of leases, which are the heartbeat."""
    count = 0
    for line in plane.audit_log.read_text().splitlines():
        entry = json.loads(line)
        changes = entry["verb"] in ("create", "update", "patch", "delete")
        count += changes and "leases" not in entry["requestURI"]
    return count


def size(nodes: int = 1000, pods: int = 10_000) -> None:
    """Memory of the controller with a full cluster."""
    with ControlPlane(lifted=True) as plane:
        install(plane)
        add_nodes(plane, nodes)
        loader = Loader(plane)
        bodies = [pod(i, "other") for i in range(pods)]
        for index, body in enumerate(bodies):
            body["spec"]["nodeName"] = f"n-{index % nodes}"
            body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}

        async def fill() -> None:
            async with loader.session() as session:
                await loader.create(session, PODS_PATH, bodies)

        asyncio.run(fill())
        process = start_controller(plane)
        time.sleep(15)
        tell(f"{nodes} nodes, {pods} pods", memory_mb=round(memory_mb(process.pid)),
             start_cpu_s=round(cpu_s(process.pid), 2))  # fmt: skip
        process.kill()


def duel(what: str, run: Callable[[str, Contender, int], dict[str, float]], rounds: int) -> None:
    """All contenders, one after another, several times; the medians last."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, begin in contenders().items():
            slow = name.endswith("50/100")
            if slow and name in found:
                continue
            figures = run(name, begin, 500 if slow else PODS)
            tell(what, contender=name, load=os.getloadavg()[0], **figures)
            found.setdefault(name, []).append(figures)
    for name, runs in found.items():
        keys = runs[0]
        medians = {key: statistics.median(one[key] for one in runs) for key in keys}
        tell(f"{what}, medians of {len(runs)}", contender=name, **medians)


def main(words: list[str]) -> None:
    """Run what is named, or everything."""
    reason = binaries.missing("etcd", "kube-apiserver", "kube-scheduler")
    if reason is not None:
        tell("clusters", left_out=reason)
        return
    rounds = int(words[1]) if len(words) > 1 else 3
    wanted = words[:1] or ["bind", "submit", "idle", "size"]
    if "bind" in wanted:
        duel(f"bind {PODS} waiting pods on {NODES} nodes", bind, rounds)
    if "submit" in wanted:
        duel(f"submit and place {PODS} on {NODES} nodes", submit, rounds)
    if "idle" in wanted:
        idle()
    if "size" in wanted:
        size()


if __name__ == "__main__":
    main(sys.argv[1:])
