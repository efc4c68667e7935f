"""Answers of the kubelet's pod-resources API, byte by byte."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.adapters.kubernetes.holders import HoldersError, parse_holders, read_holders
from mlsched.adapters.kubernetes.wires import read_fields


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def put(field: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(data)) + data


def pod(name: str, *containers: bytes) -> bytes:
    parts = b"".join(put(3, one) for one in containers)
    cpu_ids = varint(4 << 3 | 2) + varint(2) + b"\x00\x01"
    return put(1, put(1, name) + put(2, "team") + parts + cpu_ids)


def devices(resource: str, *ids: str) -> bytes:
    numa = varint(1 << 3) + varint(300)
    return put(2, put(1, resource) + b"".join(put(2, one) for one in ids) + put(3, put(1, numa)))


def test_devices_are_known_by_their_uuid_with_the_pod_that_holds_them() -> None:
    answer = pod("a", devices("nvidia.com/gpu", "GPU-1", "GPU-2"), devices("nvidia.com/gpu", "G-3"))
    answer += pod("idle", b"") + pod("b", devices("nvidia.com/mig-1g.10gb", "MIG-4"))
    assert parse_holders(answer) == {
        "GPU-1": "team/a",
        "GPU-2": "team/a",
        "G-3": "team/a",
        "MIG-4": "team/b",
    }


def test_resources_of_others_are_no_gpus_and_shares_count_as_their_gpu() -> None:
    answer = pod("a", devices("vendor.com/nic", "nic-0"), devices("nvidia.com/gpu.shared", "G::1"))
    assert parse_holders(answer) == {"G": "team/a"}


def test_devices_of_claims_are_known_by_driver_pool_and_device() -> None:
    device = put(1, put(1, "cdi")) + put(2, "gpu.example.com") + put(3, "node-a") + put(4, "gpu-7")
    claim = put(2, "train-1-0-gpus") + put(3, "team") + put(4, device)
    assert parse_holders(pod("a", put(5, claim))) == {"gpu.example.com/node-a/gpu-7": "team/a"}


def test_no_pods_is_an_empty_answer() -> None:
    assert parse_holders(b"") == {}


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        fields = list(read_fields(data))
    except ValueError:
        return
    assert sum(len(content) for _, content in fields) <= len(data)


@given(st.lists(st.tuples(st.integers(1, 500), st.binary(max_size=300)), max_size=5))
def test_what_was_put_is_read_back(fields: list[tuple[int, bytes]]) -> None:
    data = b"".join(put(number, content) for number, content in fields)
    assert list(read_fields(data)) == fields
    if fields and fields[-1][1]:
        with pytest.raises(ValueError, match="expected"):
            list(read_fields(data[:-1]))


def test_a_missing_socket_says_so(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    with pytest.raises(HoldersError, match="does not tell who holds which GPU"):
        asyncio.run(read_holders(str(tmp_path / "kubelet.sock")))
