"""Reads NVML's C structures without the binding's strict decoding of their texts."""

from __future__ import annotations

import ctypes
from typing import Any

from mlsched.adapters.nvml.doors import to_text

FIELD_MEMORY_TEMPERATURE = 82
FIELD_NVLINK_COUNT = 91
FIELD_RECOVERY_ACTION = 230
"""Source: nvml.h, field ids; 230 exists since driver 570."""

_UNION_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of a field value by its ``valueType``."""


def raw_bytes(struct: Any, field: str) -> bytes:
    """The bytes of one member, whatever they are."""
    member = getattr(type(struct), field)
    return ctypes.string_at(ctypes.addressof(struct) + member.offset, member.size)


def raw_text(struct: Any, field: str) -> str:
    """A text member up to its first NUL."""
    return to_text(raw_bytes(struct, field).split(b"\0")[0])


def copy_fields(values: Any) -> dict[int, tuple[int, int]]:
    """Field values as ``{id: (return code, value)}``; the value counts only where the code is 0."""
    found = {}
    for one in values:
        code = int(one.nvmlReturn)
        kind = int(one.valueType)
        member = _UNION_MEMBERS[kind] if kind < len(_UNION_MEMBERS) else "ullVal"
        found[int(one.fieldId)] = (code, 0 if code else int(getattr(one.value, member)))
    return found


def handle_address(handle: Any) -> int:
    """The address behind a handle; the driver hands out the same one again."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
