"""Everything that a fault test needs on one plane: nodes, proxy, journal, controllers, a judge.

rig.run(work, disturb_s=0.3)        # creates, disturbs, waits for the end, judges
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.controlplane.api import ApiError
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.histories import ENDED, NEVER, History, read_history
from tests.controlplane.journals import STORAGE, Journal
from tests.controlplane.laws import PARTIAL_S_MAX, Sizes, broken
from tests.controlplane.planes import ControlPlane
from tests.controlplane.proxies import NONE, FaultProxy
from tests.controlplane.spawned import Controller, Spawner
from tests.controlplane.workloads import Workload, disturb

NODES = 4
SIZE = Sizes(gpus=4, milli_cpus=8000)
END_S_MAX = 45.0
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Rig:
    """One plane with four nodes, and all that watches and breaks it."""

    def __init__(self, kwok: Kwok, journal: Journal, proxy: FaultProxy, spawner: Spawner) -> None:
        plane = kwok.plane
        self.plane = plane
        self.kwok = kwok
        self.journal = journal
        self.proxy = proxy
        self.spawner = spawner
        self.nodes: dict[str, Sizes] = {}
        self.kubeconfig = proxy.kubeconfig(
            plane.admin_kubeconfig, plane.directory / "through-proxy.yaml"
        )
        self._numbers = itertools.count(1)
        self._controllers = itertools.count(1)

    def leader(self) -> int:
        """Process id of the controller that holds the lease; 0 when nobody does."""
        path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/mlsched-controller"
        if not self.plane.exists(path):
            return 0
        holder = self.plane.api("GET", path)["spec"].get("holderIdentity") or ""
        return int(holder.rsplit("_", 2)[-2]) if holder else 0

    def controller(self, kubeconfig: Path | None = None) -> Controller:
        """A controller that is not started yet; through the proxy unless another is named."""
        name = f"controller-{next(self._controllers)}"
        return Controller(self.spawner, kubeconfig or self.kubeconfig, name)

    def restart_apiserver(self, between: Callable[[], object] = lambda: None) -> None:
        """End the API server by SIGKILL, do something, start it again.

        So is KWOK, which after several restarts waits for half a minute before it tries again.
        """
        self.plane.stop_apiserver()
        between()
        self.plane.start_apiserver()
        self.kwok.process.stop()
        self.kwok = Kwok(self.plane)

    def new_namespace(self) -> str:
        """A namespace for one run."""
        return self.plane.create_namespace(f"run-{next(self._numbers)}")

    def history(self, namespace: str) -> History:
        """What has happened in a namespace until now."""
        return read_history(self.journal.history(namespace, self.journal.revision()))

    def is_quiet(self, namespace: str) -> bool:
        """Whether all jobs and pods of a namespace have ended."""
        return has_settled(self.history(namespace))

    def run(
        self,
        work: Workload,
        tend: Callable[[], None],
        *,
        disturb_s: float = 0.4,
        awaited: str = "",
        partial_s_max: float = PARTIAL_S_MAX,
    ) -> list[str]:
        """Create a workload, disturb it after a while, wait until all has ended; the breaches.

        Args:
            tend: Called all the time: restarts controllers.
            disturb_s: How long that while is at most.
            awaited: A job; it is over as soon as this one runs.
            partial_s_max: How long a gang may be there in part.
        """
        for path, body in work.bodies:
            _patiently(partial(self.plane.api, "POST", path, body))
        self.wait(lambda: runs(self.history(work.namespace), awaited), tend, disturb_s)
        for path, what in work.later:
            _patiently(partial(disturb, self.plane, path, what))
        self.wait(lambda: self.is_quiet(work.namespace), tend, END_S_MAX)
        history = self.history(work.namespace)
        return broken(history, work.expected, self.nodes, work.gangs, partial_s_max)

    def wait(self, probe: Callable[[], bool], tend: Callable[[], None], seconds: float) -> None:
        """Until a probe says so, or the time is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not probe():
            tend()
            time.sleep(0.05)

    def clean(self, namespace: str) -> None:
        """Remove what a run has left, so that the next one begins on empty nodes."""
        self.proxy.choose = lambda request: NONE
        self.proxy.on_applied = self.proxy.on_answered = lambda write: None
        for path in (
            f"/apis/mlsched.io/v1alpha1/namespaces/{namespace}/mljobs",
            f"/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0",
        ):
            self.plane.api("DELETE", path)
        self.plane.api("DELETE", f"/api/v1/namespaces/{namespace}")


def runs(history: History, name: str) -> bool:
    """Whether a job has been running."""
    jobs = [job for job in history.jobs.values() if job.name == name]
    return any(one.state == "RUNNING" for job in jobs for one in job.records.get("", ()))


def has_settled(history: History) -> bool:
    """Whether every job has ended, and every pod."""
    for job, index, _ in history.units():
        records = job.records.get(index)
        if job.deleted == NEVER and not (records and records[-1].state in ENDED):
            return False
    return all(pod.over != NEVER for pod in history.pods.values())


def _patiently(act: Callable[[], object], given_up: tuple[int, ...] = (404, 409)) -> None:
    """Do it again while the API server is away; codes of ``given_up`` mean that it is done."""
    deadline = time.monotonic() + END_S_MAX
    while True:
        try:
            act()
            return
        except (OSError, http.client.HTTPException, ApiError) as error:
            if isinstance(error, ApiError) and error.code in given_up:
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _define_kinds(plane: ControlPlane) -> None:
    from mlsched.specs.crds import build_crds

    for crd in build_crds():
        plane.api("POST", DEFINITIONS, crd)
        path = f"/apis/mlsched.io/v1alpha1/{crd['spec']['names']['plural']}"
        _patiently(partial(plane.api, "GET", path), given_up=())


@contextlib.contextmanager
def rigged() -> Iterator[Rig]:
    """A rig, ready: the garbage collector runs, and knows of MLJobs."""
    with ControlPlane(lifted=True, flags=[STORAGE]) as plane:
        _define_kinds(plane)
        plane.start_manager()
        kwok = Kwok(plane)
        labels = {"mlsched.io/layer": "local"}
        amounts = {"cpu": str(SIZE.milli_cpus // 1000)}
        names = kwok.add_nodes(NODES, gpus=SIZE.gpus, labels=labels, resources=amounts)
        with (
            Journal(plane.etcd_port) as journal,
            FaultProxy(plane.address, plane.ca_file) as proxy,
            Spawner(plane.directory) as spawner,
        ):
            rig = Rig(kwok, journal, proxy, spawner)
            rig.nodes = dict.fromkeys(names, SIZE)
            yield rig
