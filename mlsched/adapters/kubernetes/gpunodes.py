"""GPUNode objects: what the agent of a node tells of its GPUs, written and read.

One a node, of the node's name and owned by it, so that it goes when the node does. It is the only
memory that an agent has: a new one takes the driver's events from it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from mlsched.adapters.kubernetes.apis import Api, ApiError
from mlsched.adapters.kubernetes.attempts import parse_time_ms
from mlsched.adapters.kubernetes.objects import Metadata, decode_partial
from mlsched.model.inventory import Inventory
from mlsched.model.specs import API_VERSION

KIND = "GPUNode"
GPU_NODES = f"/apis/{API_VERSION}/gpunodes"

STALE_S = 900
"""What an agent said so long ago is not believed: three of its heartbeats."""

TRIES_MAX = 3
"""Of one publication that others' writes get in the way of."""


class GpuSummary(Struct):
    """What fits into a line of ``kubectl get gpunodes``."""

    gpus: int = 0
    healthy: int = 0
    """GPUs, or MIG instances' GPUs, that take new jobs."""
    driver: str = ""
    note: str = ""


class GpuNodeStatus(Struct, rename="camel"):
    """What an agent read, and when it said so."""

    inventory: Inventory | None = None
    published_at: str = ""
    boot_id: str = ""
    """Of the kernel: events of an earlier boot do not count any more."""
    summary: GpuSummary = field(default_factory=GpuSummary)
    holders: dict[str, str] = field(default_factory=dict)
    """``NAMESPACE/NAME`` of the pod that holds a device, by its UUID; of a device of a DRA driver
    by ``DRIVER/POOL/DEVICE``."""


class GpuNode(Struct):
    """One GPUNode."""

    metadata: Metadata
    status: GpuNodeStatus = field(default_factory=GpuNodeStatus)


class ToldStatus(Struct, rename="camel"):
    """The status as a controller keeps it: an inventory as objects has three times the size."""

    inventory: Raw = field(default_factory=Raw)
    published_at: str = ""


class ToldNode(Struct):
    """One GPUNode as a controller keeps it."""

    metadata: Metadata
    status: ToldStatus = field(default_factory=ToldStatus)


def read_told(node: ToldNode) -> Inventory | None:
    """The inventory in a GPUNode; None where there is none, or one that this version cannot read.

    Costs 1 ms for 8 GPUs.
    """
    try:
        return _inventories.decode(node.status.inventory)
    except msgspec.DecodeError:
        return None


_decode_node = msgspec.json.Decoder(GpuNode).decode
_inventories: msgspec.json.Decoder[Inventory | None] = msgspec.json.Decoder(Inventory | None)


def age_s_of(node: ToldNode, now_ms: int) -> int:
    """Since it was published, by our clock: those of the nodes must not differ by minutes."""
    return (now_ms - (parse_time_ms(node.status.published_at) or 0)) // 1000


def encode_status(status: GpuNodeStatus) -> Any:
    """The status as JSON values, without what readings have only where something went wrong."""
    return _trim(msgspec.to_builtins(status))


_DEFAULTS = {"took_us": None, "code": 0, "detail": ""}


def _trim(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_trim(one) for one in value]
    if not isinstance(value, dict):
        return value
    is_reading = "at_ms" in value and "status" in value
    return {
        key: _trim(one)
        for key, one in value.items()
        if not (is_reading and key in _DEFAULTS and _DEFAULTS[key] in (None, one))
    }


class GpuNodePublisher:
    """Writes the GPUNode of one node.

    Args:
        api: As the node's agent.
        node: Its name.
    """

    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._node = node
        self._version = ""

    async def read(self) -> GpuNode | None:
        """The object as it is; None when there is none, or one that this version cannot read.

        Raises:
            ApiError, NoAnswerError: refused, or nothing came back.
        """
        try:
            found = await self._api.get(f"{GPU_NODES}/{self._node}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        self._version = decode_partial(found).metadata.resource_version
        try:
            return _decode_node(found)
        except msgspec.DecodeError:
            return None

    async def publish(self, status: GpuNodeStatus) -> None:
        """Write the status over whatever version there is now; the object is made if need be.

        Raises:
            ApiError, NoAnswerError: refused, or nothing came back; it may be done again.
        """
        encoded = encode_status(status)
        for tries_left in reversed(range(TRIES_MAX)):
            if not self._version:
                await self._find_or_create()
            try:
                await self._replace(encoded)
            except ApiError as error:
                self._version = ""
                if error.code not in (404, 409) or not tries_left:
                    raise
            else:
                return

    async def _replace(self, status: Any) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self._node, "resourceVersion": self._version},
            "status": status,
        }
        path = f"{GPU_NODES}/{self._node}/status"
        self._note(await self._api.replace(path, msgspec.json.encode(body)))

    async def _find_or_create(self) -> None:
        await self.read()
        if self._version:
            return
        found = await self._api.get(f"/api/v1/nodes/{self._node}")
        uid = decode_partial(found).metadata.uid
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid}
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self._node, "ownerReferences": [owner]},
        }
        self._note(await self._api.create(GPU_NODES, msgspec.json.encode(body)))

    def _note(self, found: bytes) -> None:
        self._version = decode_partial(found).metadata.resource_version
