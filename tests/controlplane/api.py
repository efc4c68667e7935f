"""Requests to the API server of a plane, for the steps and the checks of a test."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

RBAC = "rbac.authorization.k8s.io"
WAIT_S_MAX = 15.0


class ApiError(RuntimeError):
    """The API server, or etcd, refused.

    Attributes:
        code: HTTP status.
        status: The Status object, or the text that came instead.
    """

    def __init__(self, code: int, status: Any) -> None:
        message = status.get("message", status) if isinstance(status, dict) else status
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status


def read_answer(response: http.client.HTTPResponse) -> Any:
    """The decoded answer of the API server or of etcd."""
    text = response.read().decode()
    answer = json.loads(text) if "json" in response.headers.get("Content-Type", "") else text
    if not 200 <= response.status < 300:
        raise ApiError(response.status, answer)
    return answer


class Api:
    """What an administrator does at an API server.

    Attributes:
        address: HOST:PORT.
        tls: Trusts the server's certificate.
        admin_token: Bearer token with all rights.
        admin_kubeconfig: The same as a kubeconfig.
        has_service_accounts: Whether pods need the service account of their namespace.
    """

    address: str
    tls: ssl.SSLContext
    admin_token: str
    admin_kubeconfig: Path
    has_service_accounts: bool

    def api(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = "",
        patch: str = "merge",
        seconds: float = 30,
    ) -> Any:
        """One request as admin, or with a token; its decoded answer.

        ``patch`` is the kind of a PATCH: merge, strategic-merge or json.

        Raises:
            ApiError: The answer was none of 2xx.
            TimeoutError: The server was silent for so long.
        """
        kind = f"application/{patch}-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {token or self.admin_token}", "Content-Type": kind}
        with closing(self._connect(seconds)) as line:
            line.request(method, path, None if body is None else json.dumps(body), headers)
            return read_answer(line.getresponse())

    def create_all(self, path: str, bodies: Sequence[Any], connections: int = 8) -> None:
        """POST many objects as admin, over a few connections: about 1,000 a second.

        Raises:
            ApiError: One was refused; others may be there.
        """
        headers = {
            "Authorization": f"Bearer {self.admin_token}",
            "Content-Type": "application/json",
        }

        def create(part: Sequence[Any]) -> None:
            with closing(self._connect()) as line:
                for body in part:
                    line.request("POST", path, json.dumps(body), headers)
                    read_answer(line.getresponse())

        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(create, (bodies[first::connections] for first in range(connections))))

    def _connect(self, seconds: float = 30) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.address, context=self.tls, timeout=seconds)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """What kubectl prints; needs kubectl in PATH."""
        argv = ["kubectl", f"--kubeconfig={self.admin_kubeconfig}", *words]
        found = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        if found.returncode:
            raise RuntimeError(f"{' '.join(words)}: {found.stderr.strip()}")
        return found.stdout

    def grant(self, user: str, role: str, namespace: str = "", kind: str = "User") -> None:
        """Bind a cluster role to a user or group, in one namespace or everywhere.

        Returns when the API server acts on it, which is some milliseconds after it was written.
        view, edit and admin are empty until a controller manager has filled them.

        Raises:
            TimeoutError: The role has no rules, or the API server does not act on it.
        """
        where = f"/namespaces/{namespace}/rolebindings" if namespace else "/clusterrolebindings"
        body = {
            "metadata": {"generateName": "tests-"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": kind, "name": user}],
        }
        self.api("POST", f"/apis/{RBAC}/v1{where}", body)
        subject = {"user": user} if kind == "User" else {"user": "any", "groups": [user]}
        self._wait_for(
            f"{user} may do what {role} says",
            lambda: self._has_first_right(subject, role, namespace),
        )

    def _has_first_right(self, subject: dict[str, Any], role: str, namespace: str) -> bool:
        rules = self.api("GET", f"/apis/{RBAC}/v1/clusterroles/{role}")["rules"] or []
        rule = next((each for each in rules if each.get("resources")), None)
        if rule is None:
            return False
        resource, _, below = rule["resources"][0].partition("/")
        asked = {
            "verb": rule["verbs"][0],
            "group": rule["apiGroups"][0],
            "resource": resource,
            "subresource": below,
            "namespace": namespace,
            "name": (rule.get("resourceNames") or [""])[0],
        }
        body = {"spec": {**subject, "resourceAttributes": asked}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self.api("POST", path, body)["status"]["allowed"])

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A token of a service account; 600 s is the least that the API server grants."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"spec": {"expirationSeconds": seconds}}
        token: str = self.api("POST", path, body)["status"]["token"]
        return token

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """A namespace that takes pods at once; its name."""
        body = {"metadata": {"name": name, "labels": dict(labels or {})}}
        self.api("POST", "/api/v1/namespaces", body)
        if self.has_service_accounts:
            self.wait_for_service_account(name)
        return name

    def wait_for_service_account(self, namespace: str) -> None:
        """Pods of a namespace are refused until its service account is there.

        Raises:
            TimeoutError: It is not there in time; see kube-controller-manager.log.
        """
        wanted = ("serviceaccounts/default", "configmaps/kube-root-ca.crt")
        paths = [f"/api/v1/namespaces/{namespace}/{one}" for one in wanted]
        self._wait_for(f"{wanted} in {namespace}", lambda: all(map(self.exists, paths)))

    def _wait_for(self, what: str, probe: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S_MAX
        while not probe():
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected within {WAIT_S_MAX} s: {what}")
            time.sleep(0.02)

    def exists(self, path: str) -> bool:
        """Whether an object is there."""
        try:
            self.api("GET", path)
        except ApiError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True
