"""What pods of a test plane reach by name: a DNS server, and the API server's service address.

``python -I pod_network.py KUBECONFIG GATEWAY SERVICE_ADDRESS API_PORT``. There is no kube-proxy and
no CoreDNS; the answers are CoreDNS's but for services with a cluster address, which answer with
their pods' addresses. SERVICE.NS.svc.cluster.local: the ready pods of a service, or all with
publishNotReadyAddresses; HOSTNAME.SERVICE.NS.svc.cluster.local: only pods whose spec.hostname and
spec.subdomain say so. UDP, A records. It follows services and pods by a watch. Standard library.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

TTL_S = 1
DOMAIN = ".svc.cluster.local"
NO_ERROR, NO_SUCH_NAME = 0, 3
AUTHORITATIVE_ANSWER = 0x8580
A, IN = 1, 1


class Mirror(threading.Thread):
    """The objects of one kind, kept up to date by LIST and WATCH."""

    def __init__(self, kubeconfig: Path, path: str) -> None:
        super().__init__(daemon=True)
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.address = cluster["server"].removeprefix("https://")
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=ca)
        self.headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        self.path = path
        self.objects: dict[tuple[str, str], Any] = {}

    def run(self) -> None:
        """Follow for ever; begin again with a LIST when the watch breaks."""
        while True:
            try:
                for event in self._watch(self._list()):
                    self._apply(event)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                print(f"{self.path}: {error!r}; again", flush=True)
            time.sleep(0.1)

    def _get(self, query: str) -> http.client.HTTPResponse:
        line = http.client.HTTPSConnection(self.address, context=self.tls, timeout=330)
        line.request("GET", f"{self.path}?{query}", headers=self.headers)
        response = line.getresponse()
        if response.status != 200:
            raise ValueError(f"expected 200, found {response.status}: {response.read(200)!r}")
        return response

    def _list(self) -> str:
        found = json.loads(self._get("").read())
        self.objects = {_key(each): each for each in found["items"]}
        version: str = found["metadata"]["resourceVersion"]
        return version

    def _watch(self, version: str) -> Iterator[dict[str, Any]]:
        response = self._get(f"watch=true&timeoutSeconds=300&resourceVersion={version}")
        while line := response.readline():
            yield json.loads(line)

    def _apply(self, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":
            raise ValueError(event["object"].get("message", "watch ended"))
        key = _key(event["object"])
        if event["type"] == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = event["object"]


def _key(item: dict[str, Any]) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"].get("name", "")


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or []
    is_true = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return is_true and "deletionTimestamp" not in pod["metadata"]


class Names(asyncio.DatagramProtocol):
    """The DNS server."""

    def __init__(self, services: Mirror, pods: Mirror, api_address: str) -> None:
        self.services = services
        self.pods = pods
        self.api_address = api_address
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer one question."""
        assert self.transport is not None
        labels, at = [], 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind = struct.unpack(">H", data[at + 1 : at + 3])[0]
        found = self.addresses(".".join(labels).lower())
        code = NO_SUCH_NAME if found is None else NO_ERROR
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", A, IN, TTL_S, 4) + socket.inet_aton(address)
            for address in (found or [] if kind == A else [])
        )
        counts = (1, len(records) // 16, 0, 0)
        header = data[:2] + struct.pack(">HHHHH", AUTHORITATIVE_ANSWER | code, *counts)
        self.transport.sendto(header + data[12 : at + 5] + records, addr)

    def addresses(self, name: str) -> list[str] | None:
        """Addresses of a name; None when there is no such name."""
        if not name.endswith(DOMAIN):
            return None
        parts = name.removesuffix(DOMAIN).split(".")
        if len(parts) not in (2, 3):
            return None
        *host, service_name, namespace = parts
        service = self.services.objects.get((namespace, service_name))
        if service is None:
            return None
        if (namespace, service_name) == ("default", "kubernetes"):
            return [self.api_address]
        found = self._pods_of(service, namespace)
        if host:
            named = (host[0], service_name)
            found = [
                pod
                for pod in found
                if (pod["spec"].get("hostname"), pod["spec"].get("subdomain")) == named
            ]
        addresses = [pod["status"]["podIP"] for pod in found]
        return None if host and not addresses else addresses

    def _pods_of(self, service: dict[str, Any], namespace: str) -> list[dict[str, Any]]:
        selector = service["spec"].get("selector")
        if not selector:
            return []
        is_early = service["spec"].get("publishNotReadyAddresses", False)
        return [
            pod
            for (where, _), pod in list(self.pods.objects.items())
            if where == namespace
            and selector.items() <= pod["metadata"].get("labels", {}).items()
            and pod["status"].get("podIP")
            and pod["status"]["phase"] in ("Pending", "Running")
            and (is_early or _is_ready(pod))
        ]


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Carry one connection of a pod to the API server on loopback."""

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    try:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, their_writer), pump(their_reader, writer))


async def serve(kubeconfig: Path, gateway: str, service_address: str, api_port: int) -> None:
    """Serve for ever."""
    services, pods = Mirror(kubeconfig, "/api/v1/services"), Mirror(kubeconfig, "/api/v1/pods")
    for mirror in (services, pods):
        mirror.start()
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(
        lambda: Names(services, pods, service_address), local_addr=(gateway, 53)
    )

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forward(reader, writer, api_port)

    server = await asyncio.start_server(connected, service_address, 443)
    print("serving", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
