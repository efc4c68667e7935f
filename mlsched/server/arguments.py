"""Arguments of operations, as they come over the socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mlsched.errors import SpecError

Args = Mapping[str, Any]

TEXT = msgspec.json.Decoder(str)
TEXTS = msgspec.json.Decoder(list[str])
COUNT = msgspec.json.Decoder(int)
SECONDS = msgspec.json.Decoder(float)
OBJECT = msgspec.json.Decoder(dict[str, Any])
VARIABLES = msgspec.json.Decoder(dict[str, str])


def read_argument(
    args: Args, name: str, kind: msgspec.json.Decoder[Any], default: Any = None
) -> Any:
    """The value of an argument, of the kind that is asked for; ``default`` where it is missing.

    Raises:
        SpecError: it is of another kind.
    """
    found = args.get(name)
    if found is None:
        return default
    try:
        return msgspec.convert(found, kind.type)
    except msgspec.ValidationError as error:
        raise SpecError(f"{name}: {error}.") from error
