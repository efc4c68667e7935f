"""The DNS of the test nodes answers as CoreDNS does."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.controlplane.pod_network import Mirror, Names

API = "10.96.0.1"


class Wire:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendto(self, data: bytes, peer: Any) -> None:
        self.sent.append(data)


def service(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"namespace": "team", "name": name}
    return {"metadata": metadata, "spec": {"selector": {"app": "rank"}, **spec}}


def pod(name: str, address: str, *, ready: bool = True, **spec: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    status = {"phase": "Running", "podIP": address, "conditions": [condition]}
    metadata = {"namespace": "team", "name": name, "labels": {"app": "rank"}}
    return {"metadata": metadata, "spec": spec, "status": status}


class Fixed:
    """Stands for a mirror."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = {(o["metadata"]["namespace"], o["metadata"]["name"]): o for o in objects}


@pytest.fixture
def names() -> Names:
    kubernetes = {"metadata": {"namespace": "default", "name": "kubernetes"}, "spec": {}}
    early = service("early", publishNotReadyAddresses=True)
    services: Any = Fixed(service("gang"), early, service("none", selector=None), kubernetes)
    going = pod("rank-3", "10.88.0.5", hostname="rank-3", subdomain="gang")
    going["metadata"]["deletionTimestamp"] = "now"
    other = pod("other", "10.88.0.6")
    other["metadata"]["labels"] = {}
    pods: Any = Fixed(
        pod("rank-0", "10.88.0.2", hostname="rank-0", subdomain="gang"),
        pod("rank-1", "10.88.0.3", ready=False, hostname="rank-1", subdomain="early"),
        pod("rank-2", "10.88.0.4", hostname="rank-2"),
        going,
        other,
    )
    return Names(services, pods, API)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gang.team.svc.cluster.local", ["10.88.0.2", "10.88.0.4"]),
        ("rank-0.gang.team.svc.cluster.local", ["10.88.0.2"]),
        ("rank-2.gang.team.svc.cluster.local", None),
        ("rank-1.gang.team.svc.cluster.local", None),
        ("rank-1.early.team.svc.cluster.local", ["10.88.0.3"]),
        ("none.team.svc.cluster.local", []),
        ("kubernetes.default.svc.cluster.local", [API]),
        ("gang.other.svc.cluster.local", None),
        ("gang.team.svc", None),
        ("svc.cluster.local", None),
        ("one.svc.cluster.local", None),
        ("example.org", None),
    ],
)
def test_addresses_of_a_name(names: Names, name: str, found: list[str] | None) -> None:
    assert names.addresses(name) == found


@pytest.mark.parametrize(
    ("host", "kind", "code", "addresses"),
    [
        ("rank-0.gang", 1, 0, ["10.88.0.2"]),
        ("RANK-0.Gang", 1, 0, ["10.88.0.2"]),
        ("rank-0.gang", 28, 0, []),
        ("nobody.gang", 1, 3, []),
    ],
)
def test_an_answer_on_the_wire(
    names: Names, host: str, kind: int, code: int, addresses: list[str]
) -> None:
    wire: Any = Wire()
    names.connection_made(wire)
    labels = [*host.split("."), "team", "svc", "cluster", "local"]
    question = b"".join(bytes([len(label)]) + label.encode() for label in labels)
    question += b"\0" + struct.pack(">HH", kind, 1)
    header = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    names.datagram_received(header + question, ("10.88.0.9", 5353))
    (answer,) = wire.sent
    number, flags, _, count, *_ = struct.unpack(">HHHHHH", answer[:12])
    assert (number, flags & 0xF, count) == (7, code, len(addresses))
    assert answer[12 : 12 + len(question)] == question
    records = answer[12 + len(question) :]
    assert [socket.inet_ntoa(records[at + 12 : at + 16]) for at in range(0, len(records), 16)] == (
        addresses
    )


def test_a_mirror_applies_what_it_hears() -> None:
    mirror = Mirror.__new__(Mirror)
    mirror.objects = {}
    item = service("gang")
    mirror._apply({"type": "ADDED", "object": item})
    assert mirror.objects == {("team", "gang"): item}
    mirror._apply({"type": "DELETED", "object": item})
    assert mirror.objects == {}
    with pytest.raises(ValueError, match="too old"):
        mirror._apply({"type": "ERROR", "object": {"message": "too old"}})
