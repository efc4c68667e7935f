"""``mlsched version``."""

from __future__ import annotations

import platform

from mlsched.cli.session import Session
from mlsched.version import __version__


def version(session: Session) -> int:
    """Print the version of mlsched."""
    found = {"version": __version__, "python": platform.python_version()}
    session.emit(found, lambda: f"mlsched {__version__}", [__version__])
    return 0
