"""The wire format of Protocol Buffers, as far as reading messages of text needs it. Pure.

Source: "Encoding" in the documentation of Protocol Buffers.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}


def read_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that holds text or a message; numbers are passed over.

    Raises:
        ValueError: it is no message, or was cut off.
    """
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == VARINT:
            _, at = _read_varint(data, at)
            continue
        size, at = _read_varint(data, at) if kind == BYTES else (_SIZES.get(kind, -1), at)
        if size < 0 or at + size > len(data):
            raise ValueError(f"expected a message, found what is none at byte {at}")
        if kind == BYTES:
            yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"expected a number, found none at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
