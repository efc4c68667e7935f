"""Arguments of operations, as they come over the socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mlsched.errors import SpecError

Args = Mapping[str, Any]


def read_argument(args: Args, name: str, kind: Any, default: Any = None) -> Any:
    """The value of an argument, of the kind that is asked for; ``default`` where it is missing.

    Raises:
        SpecError: it is of another kind.
    """
    found = args.get(name)
    if found is None:
        return default
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise SpecError(f"{name}: {error}.") from error
