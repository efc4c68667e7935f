"""What is known of the GPUs of one machine: readings with a status and a time, never bare numbers.

`mlsched.adapters.nvml` makes an `Inventory` from the driver, from a recording or from a document of
``nvidia-smi``; `mlsched.core.health` and `mlsched.core.inventory` judge it. A GPU is known by its
UUID. A reading that is missing has no value: zero means that the driver said zero.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, Literal, TypeVar

from msgspec import Struct

T = TypeVar("T")

HUNG = -1
"""Code of readings that were given up because the driver did not answer."""


class ReadingStatus(StrEnum):
    """Whether there is a value, and if not, why."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    """This product and driver never have it."""
    NO_PERMISSION = "no_permission"
    MISSING_SYMBOL = "missing_symbol"
    """The driver (or the document) is too old to know of it."""
    TRANSIENT = "transient"
    """Not now: busy, timed out or hung. Asking again can help."""
    LOST = "lost"
    """The GPU does not answer any more."""
    ERROR = "error"


class Reading(Struct, Generic[T], frozen=True):
    """One thing that was asked, and the answer."""

    value: T | None
    """None unless the status is ``ok``."""
    status: ReadingStatus
    at_ms: int
    """When it was asked, Unix time."""
    took_us: int = 0
    code: int = 0
    """What NVML returned; 0 also where no NVML call was made, `HUNG` where one did not return."""
    detail: str = ""
    """Why there is no value, for people; empty when there is one."""

    @property
    def is_ok(self) -> bool:
        """Whether there is a value."""
        return self.status is ReadingStatus.OK


class Identity(Struct, frozen=True):
    """Which GPU it is, and what it can do. Nothing here changes while the driver runs."""

    uuid: Reading[str]
    name: Reading[str]
    serial: Reading[str]
    pci_bus_id: Reading[str]
    minor: Reading[int]
    """N of ``/dev/nvidiaN``."""
    architecture: Reading[str]
    compute_capability: Reading[str]
    board_part_number: Reading[str]
    module_id: Reading[int]
    """Number of the socket on the board; not an index."""
    vbios_version: Reading[str]
    gsp_version: Reading[str]
    addressing_mode: Reading[str]
    chassis_serial: Reading[str]
    """Of the rack, on GB200 and its kind; an empty text is an answer too."""
    numa_nodes: Reading[tuple[int, ...]]
    """NUMA nodes of the host that are near, from sysfs; empty when the machine names none."""


class Memory(Struct, frozen=True):
    """Memory of a GPU or of a MIG instance, in bytes."""

    kind: Literal["dedicated", "unified"]
    """``unified``: the GPU uses the memory of the host, and the total is the host's."""
    total_bytes: Reading[int]
    used_bytes: Reading[int]
    """Without what the driver reserves, where the driver can tell the two apart."""
    free_bytes: Reading[int]
    reserved_bytes: Reading[int]


class MigInstance(Struct, frozen=True):
    """One part of a partitioned GPU."""

    uuid: str
    """``MIG-...``; a placeholder with the slot when the driver does not tell it."""
    slot: int
    name: Reading[str]
    profile: Reading[str]
    """Such as ``1g.10gb``."""
    gpu_instance_id: Reading[int]
    compute_instance_id: Reading[int]
    multiprocessors: Reading[int]
    memory: Memory


class Mig(Struct, frozen=True):
    """Partitioning of a GPU."""

    is_enabled: Reading[bool]
    is_enabled_next: Reading[bool]
    """After the next reset. When it differs, a reset is awaited."""
    slots: Reading[int]
    """How many instances there can be; slots may be empty in the middle."""
    instances: tuple[MigInstance, ...] = ()


class Process(Struct, frozen=True):
    """A process that uses a GPU. The pid is of the host's namespace."""

    pid: int
    kind: Literal["compute", "graphics", "mps"]
    used_bytes: int | None = None
    """None where the driver does not tell, as in containers."""
    gpu_instance_id: int | None = None
    compute_instance_id: int | None = None


class Load(Struct, frozen=True):
    """What the GPU does now."""

    busy_percent: Reading[int]
    """Share of the time in which any kernel ran; not efficiency. Absent in MIG mode."""
    memory_busy_percent: Reading[int]
    processes: Reading[tuple[Process, ...]]


class Environment(Struct, frozen=True):
    """Heat, power and what slows the clocks."""

    temperature_c: Reading[int]
    memory_temperature_c: Reading[int]
    margin_c: Reading[int]
    """Degrees to the first slowdown, on Ada and newer."""
    power_mw: Reading[int]
    power_limit_mw: Reading[int]
    clock_reasons: Reading[int]
    """Bits of NVML's clocks event reasons."""


class Faults(Struct, frozen=True):
    """Counters and flags of the hardware's own error handling."""

    recovery_action: Reading[int]
    """What the driver wants done (field 230): 0 nothing, 1 GPU reset, 2 node reboot, ..."""
    is_ecc_enabled: Reading[bool]
    ecc_corrected: Reading[int]
    """Since the driver was loaded, as all counters that are not called aggregate."""
    ecc_uncorrected: Reading[int]
    ecc_uncorrected_aggregate: Reading[int]
    is_sram_threshold_exceeded: Reading[bool]
    remapped_corrected: Reading[int]
    remapped_uncorrected: Reading[int]
    is_remap_pending: Reading[bool]
    has_remap_failed: Reading[bool]
    is_retirement_pending: Reading[bool]
    """Of memory pages, before Ampere."""


class NvLink(Struct, frozen=True):
    """One NVLink port."""

    link: int
    is_active: Reading[bool]
    remote_kind: Reading[str]
    """``gpu``, ``switch``, ``npu`` or ``unknown``."""
    remote_bus_id: Reading[str]


class Peer(Struct, frozen=True):
    """Another GPU, seen from this one. Being near is one thing, talking directly another."""

    uuid: str
    ancestor: Reading[str]
    """Where the paths meet: internal, single, multiple, hostbridge, node or system."""
    read: Reading[str]
    """Direct reads of its memory: ``ok`` or why not."""
    write: Reading[str]
    nvlink: Reading[str]


class Links(Struct, frozen=True):
    """How a GPU is connected."""

    nvlinks: tuple[NvLink, ...]
    """Ports that the product has, in their order."""
    nvlink_count: Reading[int]
    """Ports by the driver's own count (field 91)."""
    peers: tuple[Peer, ...]
    pcie_generation: Reading[int]
    pcie_generation_max: Reading[int]
    pcie_width: Reading[int]
    pcie_width_max: Reading[int]
    pcie_replays: Reading[int]


class Fabric(Struct, frozen=True):
    """Membership in an NVLink domain of many GPUs."""

    state: Reading[str]
    """``not supported``, ``not started``, ``in progress`` or ``completed``."""
    cluster_uuid: Reading[str]
    """All zero means: in no domain that spans machines. Never group by that."""
    clique_id: Reading[int]
    health: Reading[str]
    """``not supported``, ``healthy``, ``unhealthy`` or ``limited``."""


class Gpu(Struct, frozen=True):
    """One GPU: everything that was asked of it."""

    uuid: str
    """The key. ``index-3`` stands in when the GPU does not tell it: shown, never given out."""
    index: int
    """Place in the driver's list at this moment; for people only, it changes."""
    identity: Identity
    memory: Memory
    mig: Mig
    load: Load
    environment: Environment
    faults: Faults
    links: Links
    fabric: Fabric

    @property
    def is_identified(self) -> bool:
        """Whether the key is the GPU's UUID and not a placeholder."""
        return not self.uuid.startswith(PLACEHOLDER)


PLACEHOLDER = "index-"
"""Begins the key of a GPU that does not tell its UUID."""


class GpuEvent(Struct, frozen=True):
    """Something that a driver told once. Kept in a list that only grows, so that none is hidden."""

    at_ms: int
    uuid: str
    kind: str
    """``xid``, ``dbe``, ``mig_change``, ...; the names are in `mlsched.core.health`."""
    code: int = 0
    """The Xid, for that kind."""
    gpu_instance_id: int | None = None
    compute_instance_id: int | None = None
    source: str = "nvml"


class CallStatistics(Struct, frozen=True):
    """What a reading cost."""

    count: int = 0
    took_us: int = 0
    failed: int = 0
    """Calls without a value, for whatever reason."""


class Inventory(Struct, frozen=True):
    """The GPUs of one machine at one moment."""

    driver: Reading[str]
    nvml: Reading[str]
    cuda: Reading[str]
    """Newest CUDA that the driver can run, such as ``13.0``."""
    source: Literal["nvml", "recording", "nvidia-smi"]
    taken_at_ms: int
    gpus: tuple[Gpu, ...] = ()
    events: tuple[GpuEvent, ...] = ()
    note: str = ""
    """Why there are no GPUs, or what is wrong with all of them: one line, else empty."""
    binding: str = ""
    """Which file Python's ``pynvml`` came from, and its version; empty without NVML."""
    calls: CallStatistics = CallStatistics()
