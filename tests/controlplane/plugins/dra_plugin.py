"""A DRA driver that publishes GPUs and prepares whatever devices an allocation names.

python -m tests.controlplane.plugins.dra_plugin --apis DIR --kubelet DIR --cdi DIR --node NAME \
    --kubeconfig FILE --uuids GPU-1,GPU-2

Devices are called gpu-0, gpu-1, ... A pod gets, by a CDI file, the UUIDs of each request in
NVIDIA_VISIBLE_DEVICES, each ``--mount HOST:CONTAINER`` and each ``--env NAME=VALUE``. The kubelet
deletes its node's ResourceSlices when it starts, so they are published again and again.
"""

from __future__ import annotations

import argparse
import base64
import json
import ssl
import time
from pathlib import Path
from typing import Any

import yaml

from tests.controlplane.api import Api, ApiError
from tests.controlplane.plugins import kubelet_apis

PUBLISH_S = 1.0
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIM = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims/{}"


class Client(Api):
    """The API server of a kubeconfig of the tests."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.address = cluster["server"].removeprefix("https://")
        self.tls = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        self.admin_token = config["users"][0]["user"]["token"]


class Driver:
    """Publishes and prepares.

    Args:
        dra: Messages of dra/v1.
        api: The API server.
        args: The command line.
    """

    def __init__(self, dra: Any, api: Client, args: argparse.Namespace) -> None:
        self._dra = dra
        self._api = api
        self._args = args
        self._uuids = {f"gpu-{n}": uuid for n, uuid in enumerate(args.uuids.split(","))}

    def publish(self) -> None:
        """Make the node's ResourceSlice, if it is not there."""
        args = self._args
        uid = self._api.api("GET", f"/api/v1/nodes/{args.node}")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": args.node, "uid": uid}
        devices = [
            {
                "name": name,
                "attributes": {
                    "type": {"string": "gpu"},
                    "uuid": {"string": uuid},
                    "productName": {"string": args.product},
                },
                "capacity": {"memory": {"value": args.memory}},
            }
            for name, uuid in self._uuids.items()
        ]
        body = {
            "metadata": {"name": f"{args.node}-{args.driver}", "ownerReferences": [owner]},
            "spec": {
                "driver": args.driver,
                "nodeName": args.node,
                "pool": {"name": args.node, "generation": 1, "resourceSliceCount": 1},
                "devices": devices,
            },
        }
        if not self._api.exists(f"{SLICES}/{args.node}-{args.driver}"):
            self._api.api("POST", SLICES, body)

    def NodePrepareResources(self, request: Any, context: Any) -> Any:
        return self._dra.NodePrepareResourcesResponse(
            claims={one.uid: self._prepare(one) for one in request.claims}
        )

    def NodeUnprepareResources(self, request: Any, context: Any) -> Any:
        for one in request.claims:
            self._file(one.uid).unlink(missing_ok=True)
        answers = {one.uid: self._dra.NodeUnprepareResourceResponse() for one in request.claims}
        return self._dra.NodeUnprepareResourcesResponse(claims=answers)

    def _file(self, uid: str) -> Path:
        return Path(self._args.cdi) / f"{self._args.driver}-{uid}.json"

    def _prepare(self, asked: Any) -> Any:
        """Idempotent: the kubelet asks again after it was restarted."""
        claim = self._api.api("GET", CLAIM.format(asked.namespace, asked.name))
        if claim["metadata"]["uid"] != asked.uid:
            return self._dra.NodePrepareResourceResponse(error="the claim was replaced")
        results = claim["status"]["allocation"]["devices"]["results"]
        mine = [one for one in results if one["driver"] == self._args.driver]
        kind = f"{self._args.driver}/gpu"
        requests: dict[str, list[str]] = {}
        for one in mine:
            requests.setdefault(one["request"], []).append(self._uuids[one["device"]])
        edits = [
            {"name": f"{asked.uid}-{name}", "containerEdits": self._edits(uuids)}
            for name, uuids in requests.items()
        ]
        file = self._file(asked.uid)
        file.parent.mkdir(exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"cdiVersion": "0.6.0", "kind": kind, "devices": edits}))
        new.replace(file)
        devices = [
            self._dra.Device(
                request_names=[one["request"]],
                pool_name=one["pool"],
                device_name=one["device"],
                cdi_device_ids=[f"{kind}={asked.uid}-{one['request']}"],
            )
            for one in mine
        ]
        return self._dra.NodePrepareResourceResponse(devices=devices)

    def _edits(self, uuids: list[str]) -> dict[str, Any]:
        env = [*self._args.env, "NVIDIA_VISIBLE_DEVICES=" + ",".join(uuids)]
        pairs = [one.split(":") for one in self._args.mount]
        mounts = [
            {"hostPath": host, "containerPath": container, "options": ["ro", "bind"]}
            for host, container in pairs
        ]
        return {"env": env, "mounts": mounts}


class Registration:
    """Tells the kubelet where the driver is."""

    def __init__(self, registration: Any, driver: str) -> None:
        self._registration = registration
        self._driver = driver

    def GetInfo(self, request: Any, context: Any) -> Any:
        return self._registration.PluginInfo(
            type="DRAPlugin",
            name=self._driver,
            endpoint=f"/var/lib/kubelet/plugins/{self._driver}/dra.sock",
            supported_versions=["v1.DRAPlugin"],
        )

    def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:
        print("registered" if request.plugin_registered else request.error, flush=True)
        return self._registration.RegistrationStatusResponse()


def serve(args: argparse.Namespace) -> None:
    """Serve, and keep the slice published."""
    registration, registrations = kubelet_apis.load(args.apis, "pluginregistration/v1/api.proto")
    dra, drivers = kubelet_apis.load(args.apis, "dra/v1/api.proto")
    driver = Driver(dra, Client(args.kubeconfig), args)
    servers = [
        kubelet_apis.serve(
            args.kubelet / "plugins" / args.driver / "dra.sock",
            drivers.add_DRAPluginServicer_to_server,
            driver,
        ),
        kubelet_apis.serve(
            args.kubelet / "plugins_registry" / f"{args.driver}-reg.sock",
            registrations.add_RegistrationServicer_to_server,
            Registration(registration, args.driver),
        ),
    ]
    while servers:
        try:
            driver.publish()
        except (ApiError, OSError) as error:
            print(f"cannot publish: {error}", flush=True)
        time.sleep(PUBLISH_S)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apis", type=Path, required=True)
    parser.add_argument("--kubelet", type=Path, required=True, help="its /var/lib/kubelet")
    parser.add_argument("--cdi", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--uuids", required=True)
    parser.add_argument("--driver", default="gpu.mlsched.io")
    parser.add_argument("--product", default="NVIDIA H100 80GB HBM3")
    parser.add_argument("--memory", default="81559Mi")
    parser.add_argument("--mount", action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
