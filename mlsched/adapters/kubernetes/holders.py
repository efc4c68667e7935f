"""Which pod holds which device of this node, from the kubelet's pod-resources API.

The kubelet tells it on a socket of the node, by gRPC; ``grpcio`` is needed (the extra ``agent``).
Source: podresources/v1 of k8s.io/kubelet; version 1 is served since Kubernetes 1.20.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlsched.adapters.kubernetes.wires import read_fields
from mlsched.errors import TemporaryError

SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
METHOD = "/v1.PodResourcesLister/List"
ANSWER_S_MAX = 5.0
BYTES_MAX = 16 << 20
"""Source: the kubelet's own limit of this API."""

VENDOR = "nvidia.com/"
"""Begins the names of the resources that stand for GPUs and parts of them."""

SHARED = "::"
"""Divides a UUID from the number of a share. Source: NVIDIA's device plugin, time slicing."""


class HoldersError(TemporaryError):
    """The kubelet does not tell who holds what; the message says why."""


async def read_holders(socket: str = SOCKET) -> dict[str, str]:
    """The pod of each device that is held, as `parse_holders` names them.

    Raises:
        HoldersError: no such socket, no answer, or no ``grpcio``.
    """
    try:
        from grpc import aio
    except ImportError as error:
        text = "who holds which GPU is not known: grpcio is not installed."
        raise HoldersError(text, "pip install 'mlsched[agent]'") from error
    options = [("grpc.max_receive_message_length", BYTES_MAX)]
    async with aio.insecure_channel(f"unix:{socket}", options) as channel:
        ask = channel.unary_unary(METHOD)
        try:
            answer: bytes = await ask(b"", timeout=ANSWER_S_MAX)
            return parse_holders(answer)
        except (aio.AioRpcError, ValueError) as error:
            why = error.details() if isinstance(error, aio.AioRpcError) else str(error)
            raise HoldersError(f"the kubelet does not tell who holds which GPU: {why}") from error


def parse_holders(answer: bytes) -> dict[str, str]:
    """``NAMESPACE/NAME`` of pods by the UUIDs of GPUs, or by ``DRIVER/POOL/DEVICE``.

    Args:
        answer: A ListPodResourcesResponse.

    Raises:
        ValueError: it is none.
    """
    holders: dict[str, str] = {}
    for number, pod in read_fields(answer):
        if number == 1:
            name = f"{_text(pod, 2)}/{_text(pod, 1)}"
            holders.update((device, name) for device in _devices_of_pod(pod))
    return holders


def _devices_of_pod(pod: bytes) -> Iterator[str]:
    for number, container in read_fields(pod):
        if number != 3:
            continue
        for kind, part in read_fields(container):
            if kind == 2 and _text(part, 1).startswith(VENDOR):
                yield from (one.partition(SHARED)[0] for one in _texts(part, 2))
            elif kind == 5:
                yield from _devices_of_claim(part)


def _devices_of_claim(claim: bytes) -> Iterator[str]:
    for number, device in read_fields(claim):
        if number == 4:
            yield "/".join(_text(device, field) for field in (2, 3, 4))


def _texts(message: bytes, field: int) -> list[str]:
    return [text.decode() for number, text in read_fields(message) if number == field]


def _text(message: bytes, field: int) -> str:
    return next(iter(_texts(message, field)), "")
