"""Takes out of a recording what identifies a machine: the same stand-in for the same thing.

UUIDs, serial numbers, PCI bus ids, chassis and fabric ids are rewritten; lengths of buffers and the
order of PCI bus ids stay. Names of products, versions, pids and numbers stay: they are the report.
"""

from __future__ import annotations

import re

from mlsched.adapters.nvml.recordings import Output, Recording

_UUID = re.compile(rb"(GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BUS = re.compile(rb"\b([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})\.([0-7])")
_PCI_CALLS = ("nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetNvLinkRemotePciInfo_v2")
_PCI_NUMBERS = slice(16, 28)
"""Domain, bus and device as numbers, in the structure of these calls."""

_SERIAL_CALL = "nvmlDeviceGetSerial"
_PLATFORM_CALL = "nvmlDeviceGetPlatformInfo"
_PLATFORM_GUID, _PLATFORM_CHASSIS = slice(4, 20), slice(20, 36)
_FABRIC_CALL = "nvmlDeviceGetGpuFabricInfoV"
_FABRIC_UUID = slice(4, 20)

Address = tuple[int, int, int]


def scrub(recording: Recording) -> None:
    """Rewrite a recording in place."""
    scrubber = _Scrubber(_addresses(recording))
    for name, by_key in recording.calls.items():
        for answers in by_key.values():
            for answer in answers:
                answer.outputs = [
                    one if one is None or not one.data_hex else scrubber.output(name, one)
                    for one in answer.outputs
                ]
    recording.files = {
        scrubber.text(path): None if text is None else scrubber.text(text)
        for path, text in recording.files.items()
    }


def _addresses(recording: Recording) -> list[Address]:
    """All PCI addresses that any output names, in their order on the bus."""
    found = set()
    for by_key in recording.calls.values():
        for answers in by_key.values():
            for answer in answers:
                for output in answer.outputs:
                    data = bytes.fromhex(output.data_hex) if output else b""
                    found |= {_address(match) for match in _BUS.finditer(data)}
    for path in recording.files:
        found |= {_address(match) for match in _BUS.finditer(path.encode())}
    return sorted(found)


def _address(match: re.Match[bytes]) -> Address:
    return (int(match[1], 16), int(match[2], 16), int(match[3], 16))


class _Scrubber:
    """Remembers which stand-in belongs to what."""

    def __init__(self, addresses: list[Address]) -> None:
        self._buses = {address: number + 1 for number, address in enumerate(addresses)}
        self._known: dict[tuple[str, bytes], int] = {}

    def output(self, name: str, output: Output) -> Output:
        """One output with stand-ins; its size stays."""
        data = bytes.fromhex(output.data_hex).ljust(output.size_bytes, b"\0")
        data = self._replace(data)
        if name in _PCI_CALLS and len(data) >= _PCI_NUMBERS.stop:
            data = self._pci_numbers(data)
        elif name == _SERIAL_CALL:
            data = self._digits("serial", data, slice(0, len(data)))
        elif name == _PLATFORM_CALL:
            data = self._digits("chassis", data, _PLATFORM_CHASSIS)
            data = _put(data, _PLATFORM_GUID, bytes(16))
        elif name == _FABRIC_CALL and any(data[_FABRIC_UUID]):
            number = self._number("fabric", data[_FABRIC_UUID])
            data = _put(data, _FABRIC_UUID, number.to_bytes(16, "big"))
        return Output(output.size_bytes, data.rstrip(b"\0").hex())

    def text(self, text: str) -> str:
        """A text with stand-ins."""
        return self._replace(text.encode()).decode()

    def _replace(self, data: bytes) -> bytes:
        return _BUS.sub(self._bus, _UUID.sub(self._uuid, data))

    def _uuid(self, match: re.Match[bytes]) -> bytes:
        number = self._number("uuid", match[0])
        return match[1] + b"-%08x-0000-0000-0000-000000000000" % number

    def _bus(self, match: re.Match[bytes]) -> bytes:
        domain, bus = divmod(self._buses[_address(match)], 256)
        text = b"%0*x:%02x:00.%s" % (len(match[1]), domain, bus, match[4])
        return text.upper() if match[0].upper() == match[0] else text

    def _pci_numbers(self, data: bytes) -> bytes:
        """The numbers of the address as the scrubbed text beside them says it."""
        match = _BUS.search(data[_PCI_NUMBERS.stop :])
        numbers = _address(match) if match else (0, 0, 0)
        return _put(data, _PCI_NUMBERS, b"".join(n.to_bytes(4, "little") for n in numbers))

    def _digits(self, kind: str, data: bytes, where: slice) -> bytes:
        """A text of as many digits in place of a text."""
        text = data[where].split(b"\0")[0]
        if not text:
            return data
        digits = b"%0*d" % (len(text), self._number(kind, text))
        return _put(data, where, digits[-len(text) :])

    def _number(self, kind: str, what: bytes) -> int:
        same_kind = sum(1 for known, _ in self._known if known == kind)
        return self._known.setdefault((kind, what), same_kind + 1)


def _put(data: bytes, where: slice, part: bytes) -> bytes:
    part = part.ljust(where.stop - where.start, b"\0")
    return data[: where.start] + part + data[where.stop :]
