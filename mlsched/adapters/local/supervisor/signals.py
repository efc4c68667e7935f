"""The module ``signal`` without its enumerations, whose import costs 5 ms and 1 MB.

``_signal`` holds the functions and numbers that ``signal`` wraps; where an interpreter lacks it,
the wrapper is used and only time is lost.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    try:
        import _signal as signal
    except ImportError:
        import signal

__all__ = ["signal", "signal_name"]


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; the number where it has no name."""
    for name, value in vars(signal).items():
        if value == number and name.startswith("SIG") and not name.startswith("SIG_"):
            return name
    return str(number)
