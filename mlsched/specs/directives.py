"""Directive lines at the head of a script: ``#MLSCHED --gpus 2`` and ``#SBATCH -n 4``.

Both follow Slurm's rules on where the head ends and how a line is split into words. What the
words mean is told by `flags` for ``#MLSCHED`` and by `sbatch` for ``#SBATCH``.

Source: sbatch(1), "script" and "--"; the rules are those that public batch scripts rely on.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from mlsched.errors import SpecError

MLSCHED = "#MLSCHED"
SBATCH = "#SBATCH"


class Directive(Struct, frozen=True):
    """One directive line: its number in the script, from 1, and its words."""

    line: int
    words: tuple[str, ...]


def find_directives(script: str, prefix: str) -> Iterator[Directive]:
    """The lines that begin with ``prefix``, up to the first that is neither blank nor a comment.

    ``##SBATCH`` and ``# SBATCH`` are comments, as is text behind an unquoted `` #``.

    Raises:
        SpecError: a quote that is not closed.
    """
    for number, line in enumerate(script.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            return
        rest = line.removeprefix(prefix)
        if rest != line and (not rest or rest[0] in " \t-"):
            yield Directive(number, split_words(rest, f"{prefix} line {number}"))


def has_directives(script: str, prefix: str) -> bool:
    """Whether any line of the head begins with ``prefix``."""
    return next(find_directives(script, prefix), None) is not None


def split_words(text: str, where: str) -> tuple[str, ...]:
    """Words by spaces, with quotes and backslashes; a word that begins with # ends the line.

    Raises:
        SpecError: a quote that is not closed.
    """
    words: list[str] = []
    word: str | None = None
    quote, escaped = "", False
    for one in text:
        if escaped:
            word, escaped = (word or "") + one, False
        elif one == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote, word = ("", word) if one == quote else (quote, (word or "") + one)
        elif one in "'\"":
            quote, word = one, word or ""
        elif one.isspace():
            words += [word] if word is not None else []
            word = None
        elif one == "#" and word is None:
            break
        else:
            word = (word or "") + one
    if quote:
        raise SpecError(f"{where}: a quote ({quote}) is not closed.", "Close it on the same line.")
    return (*words, word) if word is not None else tuple(words)
