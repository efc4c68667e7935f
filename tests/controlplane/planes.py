"""A real Kubernetes control plane for tests: etcd and the API server, and more where asked.

    with ControlPlane() as plane:                                # 3 s
        plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": "team"}})
        plane.kubectl("get", "nodes", "-o", "json")
        config = plane.kubeconfig("alice", ["team-a"])           # no rights but those you grant
        config = plane.kubeconfig_for_service_account("team", "default")
        plane.grant("alice", "edit", namespace="team")
        plane.restart_apiserver()                                # same port, objects stay
        plane.stop_apiserver(); plane.start_apiserver()
        plane.etcd.pause(); plane.etcd.resume()
        plane.compact(); plane.restart_apiserver()               # old resource versions are 410

``ControlPlane(controller_manager=True)`` adds kube-controller-manager, service accounts in every
namespace and the ServiceAccount admission; ``scheduler=True`` adds kube-scheduler;
``gangs=False`` leaves PodGroup out; ``lifted=True`` lifts the API server's own limits;
``audit=True`` keeps all requests, for ``plane.requests()``;
``kubernetes="1.36.3"`` starts the API server of that version, as the variable KUBERNETES does for
all planes (``KUBERNETES=1.36.3 make controlplane`` builds it). Everything lies in
``plane.directory``, with a log a process, and is gone after the block, also when the runner was
killed. The programs: ``make controlplane``.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.controlplane import binaries
from tests.controlplane.api import Api, ApiError, read_answer
from tests.controlplane.credentials import (
    ADMIN,
    ADMIN_GROUPS,
    Authority,
    certificate_user,
    token_user,
    write_kubeconfig,
    write_service_account_keys,
)
from tests.controlplane.plane_numbers import ports_of, take_number
from tests.controlplane.processes import Process, Processes

CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "job-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "ttl-after-finished-controller",
    "resourceclaim-controller",
    "endpointslice-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)
"""Without node-lifecycle-controller: it would taint nodes that send no heartbeat."""

GANG_VERSIONS = {"1.37": "v1beta1", "1.36": "v1alpha2", "1.35": "v1alpha1"}
USERS = {"alice": (), "bob": ()}
AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


@dataclass
class ControlPlane(Api):
    """One control plane; see the top of the module.

    Attributes:
        controller_manager: Start kube-controller-manager with CONTROLLERS.
        scheduler: Start kube-scheduler.
        gangs: Gate GenericWorkload and the newest scheduling.k8s.io: PodGroup.
        lifted: No priority and fairness, no bound on requests in flight.
        audit: Write a line a request.
        kubernetes: Version of the API server; that of the variable KUBERNETES, or the newest.
        users: Users with a token of their own, with their groups; ``admin`` is there always.
        flags: More flags of the API server.
    """

    controller_manager: bool = False
    scheduler: bool = False
    gangs: bool = True
    lifted: bool = False
    audit: bool = False
    kubernetes: str = field(default_factory=lambda: os.environ.get("KUBERNETES", binaries.NEWEST))
    users: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(USERS))
    flags: Sequence[str] = ()

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all; returns when the API server is ready.

        Raises:
            StartError: Something did not start; the message shows the end of its log.
            FileNotFoundError: A program is not built.
        """
        self.number, lock = take_number()
        self.bridge = f"mlsched{self.number}"
        self.cgroup = f"mlsched-{self.number}"
        self.processes = Processes(f"mlsched-plane-{self.number}-", self.cgroup, [lock])
        os.close(lock)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        ports = iter(ports_of(self.number))
        self.port, self._etcd_port, self._peer_port = next(ports), next(ports), next(ports)
        self._manager_port = next(ports)
        self.free_ports = ports
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"https://{self.address}"
        self.has_service_accounts = self.controller_manager
        self.service_range = f"10.96.{self.number}.0/24"
        self._write_credentials()
        self.etcd = self._start_etcd()
        self.start_apiserver()
        if self.controller_manager:
            self.manager = self._start_manager()
        if self.scheduler:
            self.kube_scheduler = self.start_scheduler()
        if self.controller_manager:
            self.wait_for_service_account("default")

    def stop(self) -> None:
        """End all and remove the directory."""
        self.processes.stop()

    @property
    def directory(self) -> Path:
        """Everything of this plane; *.log are the logs."""
        return self.processes.directory

    @property
    def etcd_port(self) -> int:
        """Where etcd answers its clients, on loopback."""
        return self._etcd_port

    def start_manager(self) -> None:
        """Start kube-controller-manager later than the API server: it asks once which kinds are."""
        self.manager = self._start_manager()

    @property
    def audit_log(self) -> Path:
        """One JSON line a request, with ``audit=True``."""
        return self.directory / "audit.log"

    def requests(self) -> list[dict[str, Any]]:
        """The requests so far, with ``audit=True``: verb, requestURI, user, userAgent, ..."""
        return [json.loads(line) for line in self.audit_log.read_text().splitlines()]

    # --- credentials

    def _write_credentials(self) -> None:
        self.authority = Authority()
        self.ca_file = self.directory / "ca.crt"
        self.ca_file.write_bytes(self.authority.pem)
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        service = self.service_range.replace("0/24", "1")
        gateway = f"10.88.{self.number}.1"
        pair = self.authority.server([*names, "127.0.0.1", service, gateway])
        for name, content in zip(("server.crt", "server.key"), pair, strict=True):
            (self.directory / name).write_bytes(content)
        write_service_account_keys(self.directory)
        self._tokens = {name: os.urandom(16).hex() for name in (ADMIN, *self.users)}
        self.admin_token = self._tokens[ADMIN]
        lines = []
        for name, token in self._tokens.items():
            groups = ",".join(self._groups_of(name))
            lines.append(f'{token},{name},{name},"{groups}"')
        (self.directory / "tokens.csv").write_text("\n".join(lines) + "\n")
        self.tls = ssl.create_default_context(cafile=str(self.ca_file))
        self.admin_kubeconfig = self.kubeconfig()

    def _groups_of(self, user: str) -> tuple[str, ...]:
        return ADMIN_GROUPS if user == ADMIN else tuple(self.users.get(user, ()))

    def token_of(self, user: str) -> str:
        """The token of a user known from the start."""
        return self._tokens[user]

    def kubeconfig(
        self,
        user: str = ADMIN,
        groups: Sequence[str] | None = None,
        *,
        context: str = "",
        namespace: str = "default",
    ) -> Path:
        """A new kubeconfig for a user.

        Users known from the start have a token; any other user, or other groups, a client
        certificate, since the API server reads its tokens only once.
        """
        known = self._tokens.get(user)
        if known and (groups is None or tuple(groups) == self._groups_of(user)):
            entry = token_user(known)
        else:
            entry = certificate_user(*self.authority.client(user, groups or ()))
        return self._write_kubeconfig(entry, context or user, namespace)

    def kubeconfig_for_service_account(
        self, namespace: str, name: str, *, context: str = "", seconds: int = 3600
    ) -> Path:
        """A new kubeconfig with a token of a service account, by a TokenRequest."""
        token = self.service_account_token(namespace, name, seconds)
        return self._write_kubeconfig(token_user(token), context or name, namespace)

    def _write_kubeconfig(self, entry: dict[str, Any], context: str, namespace: str) -> Path:
        folder = self.directory / "kubeconfigs"
        folder.mkdir(exist_ok=True)
        path = folder / f"{len(list(folder.iterdir()))}.yaml"
        return write_kubeconfig(
            path, self.url, self.authority.pem, entry, context=context, namespace=namespace
        )

    # --- processes

    def _start_etcd(self) -> Process:
        client, peer = (f"http://127.0.0.1:{p}" for p in (self._etcd_port, self._peer_port))
        argv = [
            binaries.need("etcd"),
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync=true",
        ]
        return self.processes.start("etcd", argv)

    def start_apiserver(self) -> None:
        """Start the API server, on the same port as before; returns when it is ready."""
        program = binaries.need("kube-apiserver", self.kubernetes)
        argv = [str(program), *self._apiserver_flags()]
        self.apiserver = self.processes.start("kube-apiserver", argv)
        self.processes.wait_until(
            "the API server is ready", self.is_ready, self.etcd, self.apiserver
        )

    def _apiserver_flags(self) -> list[str]:
        folder = self.directory
        refused = ["TaintNodesByCondition"]
        if not self.controller_manager:
            refused.append("ServiceAccount")
        flags = [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={folder}",
            f"--tls-cert-file={folder}/server.crt",
            f"--tls-private-key-file={folder}/server.key",
            f"--client-ca-file={self.ca_file}",
            f"--token-auth-file={folder}/tokens.csv",
            f"--service-cluster-ip-range={self.service_range}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={folder}/sa.pub",
            f"--service-account-signing-key-file={folder}/sa.key",
            f"--disable-admission-plugins={','.join(refused)}",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        return [*flags, *self._optional_flags(), *self.flags]

    def _optional_flags(self) -> list[str]:
        flags = []
        if self.gangs:
            gates = "GenericWorkload=true"
            version = self.kubernetes or binaries.kubernetes_version()
            minor = ".".join(version.split(".")[:2])
            if minor != "1.37":
                gates += ",GangScheduling=true"
            group = f"scheduling.k8s.io/{GANG_VERSIONS[minor]}=true"
            flags += [f"--feature-gates={gates}", f"--runtime-config={group}"]
        if self.lifted:
            limits = ("max-requests-inflight", "max-mutating-requests-inflight")
            flags += ["--enable-priority-and-fairness=false", *(f"--{name}=0" for name in limits)]
        if self.audit:
            policy = self.directory / "audit.yaml"
            policy.write_text(AUDIT_POLICY)
            flags += [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}"]
        return flags

    def is_ready(self) -> bool:
        """Whether the API server serves all it has."""
        try:
            return bool(self.api("GET", "/readyz") == "ok")
        except (OSError, ApiError, http.client.HTTPException):
            return False

    def stop_apiserver(self, grace_s: float = 0.0) -> None:
        """End the API server, by SIGKILL or after a grace; etcd keeps the objects."""
        self.apiserver.stop(grace_s)

    def restart_apiserver(self, grace_s: float = 0.0) -> None:
        """Stop and start the API server on the same port."""
        self.stop_apiserver(grace_s)
        self.start_apiserver()

    def compact(self) -> int:
        """Let etcd forget all old revisions; the newest one.

        The API server still answers from its own window of events: restart it, and a watch from
        an old resource version gets 410.
        """
        revision = int(self._etcd("maintenance/status", {})["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def _etcd(self, path: str, body: dict[str, Any]) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=30)) as line:
            line.request("POST", f"/v3/{path}", json.dumps(body))
            return read_answer(line.getresponse())

    def _start_manager(self) -> Process:
        folder = self.directory
        argv = [
            binaries.need("kube-controller-manager"),
            f"--kubeconfig={self.admin_kubeconfig}",
            f"--service-account-private-key-file={folder}/sa.key",
            f"--root-ca-file={self.ca_file}",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._manager_port}",
            f"--cert-dir={folder}/manager",
            "--kube-api-qps=5000",
            "--kube-api-burst=10000",
            f"--controllers={','.join(CONTROLLERS)}",
            *self._gate_of_others(),
        ]
        return self.processes.start("kube-controller-manager", argv)

    def start_scheduler(self, qps: int = 5000, burst: int = 10000) -> Process:
        """Start kube-scheduler with these limits of requests a second; 50 and 100 as shipped."""
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {
                "kubeconfig": str(self.admin_kubeconfig),
                "qps": qps,
                "burst": burst,
            },
        }
        path = self.directory / "scheduler.yaml"
        path.write_text(json.dumps(config))
        argv = [binaries.need("kube-scheduler"), f"--config={path}", "--secure-port=0"]
        return self.processes.start("kube-scheduler", [*argv, *self._gate_of_others()])

    def _gate_of_others(self) -> list[str]:
        newest = not self.kubernetes or self.kubernetes == binaries.kubernetes_version()
        return ["--feature-gates=GenericWorkload=true"] if self.gangs and newest else []


def main() -> None:
    """Start a plane with a controller manager and hold it until Ctrl-C, for trying by hand."""
    with ControlPlane(controller_manager=True) as plane:
        print(f"export KUBECONFIG={plane.admin_kubeconfig}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("ended")


if __name__ == "__main__":
    main()
