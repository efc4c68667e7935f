"""Loads NVML and its Python binding, and says in one line what is wrong when that fails.

The only place that imports ``pynvml``. Runs in child processes only: a driver may hang or crash.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from typing import Any

from mlsched.errors import PermanentError

LIBRARY = "libnvidia-ml.so.1"

INIT_NOTES = {
    4: "NVML refuses to start: no permission for the NVIDIA devices",
    9: "the NVIDIA driver is not loaded: run nvidia-smi as root, or reboot",
    12: f"no NVIDIA driver library ({LIBRARY}) on this machine",
    18: "the NVIDIA driver was upgraded and its old kernel module is still loaded: reboot",
}
"""What codes of ``nvmlInit`` mean for the machine as a whole."""


class BindingError(PermanentError):
    """The module ``pynvml`` is missing, or is not NVIDIA's."""

    code = "NvmlBinding"


def has_library() -> bool:
    """Whether the driver's library can be loaded. Costs a millisecond where there is none."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def load_binding() -> Any:
    """NVIDIA's ``pynvml``.

    Raises:
        BindingError: it is missing, or another distribution put a module of that name before it.
    """
    try:
        nvml = import_module("pynvml")
    except ImportError as error:
        raise BindingError(
            f"NVIDIA's Python binding cannot be imported: {error}.", "pip install nvidia-ml-py"
        ) from error
    if not hasattr(nvml, "_nvmlGetFunctionPointer"):
        raise BindingError(
            f"the module pynvml in {getattr(nvml, '__file__', '?')} is not NVIDIA's nvidia-ml-py.",
            "pip uninstall pynvml nvidia-ml-py3, then pip install --force-reinstall nvidia-ml-py",
        )
    return nvml


def describe_binding(nvml: Any) -> str:
    """Version and file of the binding, such as ``nvidia-ml-py 13.580.65 (.../pynvml.py)``."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("nvidia-ml-py")
    except PackageNotFoundError:
        found = "of unknown version"
    return f"nvidia-ml-py {found} ({nvml.__file__})"
