"""A device plugin that offers what it is told: the kubelet gives it to pods by its own choice.

python -m tests.controlplane.plugins.device_plugin --apis DIR --kubelet DIR --ids GPU-1,GPU-2

Ids that stand in the file ``--unhealthy``, one a line, are told as unhealthy. A pod gets the UUIDs
in NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES, each ``--mount HOST:CONTAINER`` read-only, and
each ``--env NAME=VALUE``. After a restart of the kubelet it registers again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from tests.controlplane.plugins import kubelet_apis

LOOK_S = 0.1


class Plugin:
    """Answers the kubelet.

    Args:
        api: Messages of deviceplugin/v1beta1.
        args: The command line.
    """

    def __init__(self, api: Any, args: argparse.Namespace) -> None:
        self._api = api
        self._ids: list[str] = args.ids.split(",")
        self._unhealthy: Path | None = args.unhealthy
        self._mounts = [
            api.Mount(host_path=host, container_path=container, read_only=True)
            for host, container in (one.split(":") for one in args.mount)
        ]
        self._env = dict(one.split("=", 1) for one in args.env)
        self.options = api.DevicePluginOptions(get_preferred_allocation_available=True)

    def _devices(self) -> list[Any]:
        file = self._unhealthy
        bad = set(file.read_text().split()) if file and file.exists() else set()
        return [
            self._api.Device(ID=one, health="Unhealthy" if one in bad else "Healthy")
            for one in self._ids
        ]

    def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:
        return self.options

    def PreStartContainer(self, request: Any, context: Any) -> Any:
        return self._api.PreStartContainerResponse()

    def GetPreferredAllocation(self, request: Any, context: Any) -> Any:
        """The lowest ids first."""
        chosen = []
        for one in request.container_requests:
            must = list(one.must_include_deviceIDs)
            rest = sorted(set(one.available_deviceIDs) - set(must))
            ids = (must + rest)[: one.allocation_size]
            chosen.append(self._api.ContainerPreferredAllocationResponse(deviceIDs=ids))
        return self._api.PreferredAllocationResponse(container_responses=chosen)

    def ListAndWatch(self, request: Any, context: Any) -> Iterator[Any]:
        last = None
        while context.is_active():
            now = self._devices()
            if now != last:
                yield self._api.ListAndWatchResponse(devices=now)
            last = now
            time.sleep(LOOK_S)

    def Allocate(self, request: Any, context: Any) -> Any:
        answers = []
        for one in request.container_requests:
            ids = ",".join(sorted(one.devices_ids))
            envs = {**self._env, "NVIDIA_VISIBLE_DEVICES": ids, "CUDA_VISIBLE_DEVICES": ids}
            answers.append(self._api.ContainerAllocateResponse(envs=envs, mounts=self._mounts))
        return self._api.AllocateResponse(container_responses=answers)


def serve(args: argparse.Namespace) -> None:
    """Serve and register, again for each new kubelet."""
    api, services = kubelet_apis.load(args.apis, "deviceplugin/v1beta1/api.proto")
    plugin = Plugin(api, args)
    sockets = args.kubelet / "device-plugins"
    path = sockets / (args.resource.replace("/", "_") + ".sock")
    kubelet = sockets / "kubelet.sock"
    while True:
        while not kubelet.exists():
            time.sleep(LOOK_S)
        server = kubelet_apis.serve(path, services.add_DevicePluginServicer_to_server, plugin)
        seen = kubelet.stat().st_ino
        stub = services.RegistrationStub(grpc.insecure_channel(f"unix:{kubelet}"))
        request = api.RegisterRequest(
            version="v1beta1",
            endpoint=path.name,
            resource_name=args.resource,
            options=plugin.options,
        )
        stub.Register(request, timeout=5, wait_for_ready=True)
        print("registered", args.resource, flush=True)
        while path.exists() and kubelet.exists() and kubelet.stat().st_ino == seen:
            time.sleep(LOOK_S)
        server.stop(0).wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apis", type=Path, required=True)
    parser.add_argument("--kubelet", type=Path, required=True, help="its /var/lib/kubelet")
    parser.add_argument("--ids", required=True)
    parser.add_argument("--resource", default="nvidia.com/gpu")
    parser.add_argument("--unhealthy", type=Path)
    parser.add_argument("--mount", action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
