"""ResourceSlices and ResourceClaims: which GPUs DRA drivers publish, and which are given. Pure.

A device is called ``DRIVER/POOL/DEVICE``: the name that an allocation needs, so that what a job
holds can be told to the API server from the record of the job alone.
Source: resource.k8s.io/v1, and the attributes of NVIDIA's DRA driver for GPUs.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from msgspec import Raw, Struct, field
from msgspec.structs import replace

from mlsched.adapters.kubernetes.objects import Metadata, parse_units
from mlsched.model.nodes import Device

RESOURCE_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
RESOURCE_CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"

NAMELESS = "GPU "
"""Begins what stands for the UUID of a GPU that tells none; a real one begins with ``GPU-``."""

DRIVERS = ("gpu.nvidia.com", "gpu.mlsched.io")
"""Whose devices are GPUs."""


class Attribute(Struct):
    """One attribute of a device; only text is of interest here."""

    string: str = ""


class Capacity(Struct):
    """One capacity of a device."""

    value: str | int = 0


class DeviceTaint(Struct):
    """A mark of a driver or a person that keeps claims off a device."""

    key: str = ""
    value: str = ""
    effect: str = ""


class SliceDevice(Struct, rename="camel"):
    """One device as its driver publishes it."""

    name: str
    attributes: dict[str, Attribute] = field(default_factory=dict)
    capacity: dict[str, Capacity] = field(default_factory=dict)
    taints: list[DeviceTaint] = field(default_factory=list)
    consumes_counters: list[Raw] = field(default_factory=list)
    """What it shares with other devices of its pool; mlsched only asks whether there is any."""


class Pool(Struct, rename="camel"):
    """To which set of slices a slice belongs."""

    name: str = ""
    generation: int = 0
    resource_slice_count: int = 1


class SliceSpec(Struct, rename="camel"):
    """The spec of a ResourceSlice."""

    driver: str = ""
    node_name: str = ""
    pool: Pool = field(default_factory=Pool)
    devices: list[SliceDevice] = field(default_factory=list)


class ResourceSlice(Struct):
    """One ResourceSlice."""

    metadata: Metadata
    spec: SliceSpec = field(default_factory=SliceSpec)

    @property
    def devices(self) -> list[str]:
        """Names of the devices in it."""
        spec = self.spec
        return [device_name(spec.driver, spec.pool.name, one.name) for one in spec.devices]


class Result(Struct, rename="camel"):
    """One device that was given to a claim."""

    request: str = ""
    driver: str = ""
    pool: str = ""
    device: str = ""
    admin_access: bool | None = None
    """True for those who only look: the device stays free."""


class Results(Struct):
    """All devices of a claim."""

    results: list[Result] = field(default_factory=list)


class Allocation(Struct):
    """What was given to a claim."""

    devices: Results = field(default_factory=Results)


class Consumer(Struct):
    """Who may use a claim."""

    resource: str = ""
    name: str = ""
    uid: str = ""


class ClaimStatus(Struct, rename="camel"):
    """What became of a claim."""

    allocation: Allocation | None = None
    reserved_for: list[Consumer] = field(default_factory=list)


class ResourceClaim(Struct):
    """One ResourceClaim."""

    metadata: Metadata
    status: ClaimStatus = field(default_factory=ClaimStatus)

    @property
    def devices(self) -> list[str]:
        """Names of the devices that it holds."""
        found = self.status.allocation
        results = found.devices.results if found is not None else []
        return [device_name(r.driver, r.pool, r.device) for r in results if not r.admin_access]


class Allocations:
    """Which claims hold which devices, kept as claims come and go: O(devices) a change."""

    def __init__(self) -> None:
        self._holders: dict[str, set[str]] = {}

    def observe(self, before: ResourceClaim | None, after: ResourceClaim | None) -> list[str]:
        """Take note of a change of a claim; the devices that were given or freed."""
        old = set(before.devices) if before is not None else set()
        new = set(after.devices) if after is not None else set()
        for device in old - new:
            self._holders[device].discard(before.metadata.key if before else "")
            if not self._holders[device]:
                del self._holders[device]
        for device in new - old:
            self._holders.setdefault(device, set()).add(after.metadata.key if after else "")
        return sorted(old ^ new)

    def holders(self, device: str, besides: str = "") -> set[str]:
        """Keys of the claims that hold a device, but for one."""
        return self._holders.get(device, set()) - {besides}


class Published(Struct, frozen=True):
    """A device of a driver, and the UUID by which NVML knows it; empty where it is not told."""

    device: Device
    uuid: str


def device_name(driver: str, pool: str, device: str) -> str:
    """``DRIVER/POOL/DEVICE``; the pool may have slashes of its own."""
    return f"{driver}/{pool}/{device}"


def split_name(name: str) -> tuple[str, str, str]:
    """Driver, pool and device of a name."""
    driver, _, rest = name.partition("/")
    pool, _, device = rest.rpartition("/")
    return driver, pool, device


def is_published(name: str) -> bool:
    """Whether a device's name is one of a driver, and not a slot ``NODE/gpu-3``."""
    return name.count("/") >= 2


def read_devices(slices: Iterable[ResourceSlice], drivers: Container[str]) -> list[Published]:
    """The GPUs of one node, in the order of their names.

    Of a pool only the newest generation counts, and only once all of its slices are there.

    Args:
        slices: Of the node.
        drivers: Whose devices are GPUs.

    Raises:
        ValueError: a capacity is none.
    """
    pools: dict[tuple[str, str], list[SliceSpec]] = {}
    for one in slices:
        if one.spec.driver in drivers:
            pools.setdefault((one.spec.driver, one.spec.pool.name), []).append(one.spec)
    found: list[Published] = []
    for specs in pools.values():
        newest = max(spec.pool.generation for spec in specs)
        current = [spec for spec in specs if spec.pool.generation == newest]
        if len(current) >= current[0].pool.resource_slice_count:
            found += [
                _read(spec, device)
                for spec in current
                for device in spec.devices
                if _stands_alone(spec, device)
            ]
    return sorted(found, key=lambda one: _order(one.device.uuid))


def _order(name: str) -> tuple[str, int, str]:
    """gpu-10 after gpu-9."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1, name


def _text(spec: SliceSpec, device: SliceDevice, name: str) -> str:
    own = device.attributes.get(f"{spec.driver}/{name}")
    return (own or device.attributes.get(name) or Attribute()).string


def _stands_alone(spec: SliceSpec, device: SliceDevice) -> bool:
    """Whether no other device may be of the same silicon, which the API server would give twice.

    Left out are GPUs published once more for virtual machines (``vfio``), and whole pools whose
    GPUs are cut on demand. Source: KEP-4815, partitionable devices.
    """
    return _text(spec, device, "type") in ("", "gpu", "mig") and not device.consumes_counters


def _read(spec: SliceSpec, device: SliceDevice) -> Published:
    def text(name: str) -> str:
        return _text(spec, device, name)

    memory = device.capacity.get("memory") or device.capacity.get(f"{spec.driver}/memory")
    taint = next((t for t in device.taints if t.effect in ("NoSchedule", "NoExecute")), None)
    profile = text("profile") if text("type") == "mig" else ""
    read = Device(
        device_name(spec.driver, spec.pool.name, device.name),
        text("productName") or "GPU",
        parse_units(memory.value) if memory else 0,
        profile,
        text("parentUUID"),
        taint is None,
        f"its driver marked it: {taint.key}={taint.value}" if taint else "",
    )
    return Published(read, text("uuid"))


def judge_devices(published: Iterable[Published], known: Mapping[str, Device]) -> list[Device]:
    """The devices of drivers with what the node agent knows of their health.

    A GPU that was lost before the agent ever read it does not tell its UUID: it is one of those
    that drivers publish and the agent does not know.

    Args:
        published: By drivers.
        known: By UUID, as the agent found them; by another name those that tell none.
    """
    lost = next((one for name, one in known.items() if name.startswith(NAMELESS)), None)
    devices = []
    for one in published:
        found = known.get(one.uuid, lost if one.uuid else None)
        device = one.device
        if found is not None and device.healthy:
            device = replace(device, healthy=found.healthy, health_reason=found.health_reason)
        devices.append(device)
    return devices
