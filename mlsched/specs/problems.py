"""How faults in what a user wrote are told: the path, what was found, what is allowed, a hint.

Whatever is echoed is shortened and escaped here, so that no control character, bidirectional
override or ten kilobytes of text reach a terminal through an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mlsched.errors import SpecError

ECHO_CHARACTERS_MAX = 60


def show(found: object) -> str:
    """A value as an error may echo it: quoted if it is text, ASCII only, at most 60 characters."""
    if isinstance(found, dict):
        return f"an object of {len(found)} fields"
    if isinstance(found, (list, tuple)):
        return f"a list of {len(found)} items"
    if found is None or isinstance(found, bool):
        return {None: "null", True: "true", False: "false"}[found]
    if isinstance(found, str):
        short = found[:ECHO_CHARACTERS_MAX]
        tail = "..." if len(found) > ECHO_CHARACTERS_MAX else ""
        return f"{shorten(ascii(short))}{tail}"
    if isinstance(found, int) and found.bit_length() > 128:
        return "a number of more than 38 digits"
    return shorten(ascii(found))


def shorten(text: str) -> str:
    """At most 120 characters of text that is escaped already."""
    return text if len(text) <= 2 * ECHO_CHARACTERS_MAX else text[: 2 * ECHO_CHARACTERS_MAX] + "..."


def fault(where: str, expected: str, found: object, hint: str = "") -> SpecError:
    """The error for one wrong value; ``where`` is a path such as ``spec.gpusPerNode``."""
    return SpecError(f"{where}: expected {expected}, found {show(found)}.", hint)


def key_path(where: str, key: str) -> str:
    """The path of a key that a user chose: ``spec.env.HOME``, or quoted in brackets."""
    plain = key.isascii() and key.isidentifier() and len(key) <= ECHO_CHARACTERS_MAX
    return f"{where}.{key}" if plain else f"{where}[{show(key)}]"


def unknown(where: str, word: str, allowed: Iterable[str]) -> SpecError:
    """The error for a key or option that does not exist, with the nearest that does."""
    known = sorted(allowed)
    near = nearest(word, known)
    hint = f"Did you mean {near}?" if near else f"Allowed: {', '.join(known)}."
    return SpecError(f"{where}: there is no {show(word)} here.", hint)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like ``word``, case, _ and - aside; empty if none is near."""
    plain = {_plain(one): one for one in known}
    found = difflib.get_close_matches(_plain(word[:80]), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else ""


def _plain(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
