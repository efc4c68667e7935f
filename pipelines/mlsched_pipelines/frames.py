"""DataFrames of pandas, which is imported only where somebody uses them."""

from __future__ import annotations

import sys
from typing import Any

from mlsched.errors import ConfigError


def import_pandas() -> None:
    """Make sure that pandas is there.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pandas as pd  # noqa: F401 - only whether it can be imported
    except ImportError as error:
        raise ConfigError(
            "pandas is not installed.", "Install it: pip install 'mlsched[pandas]'."
        ) from error


def is_frame(value: Any) -> bool:
    """Whether a value is a DataFrame; pandas is not imported for it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)
