"""Which words of a command line are a file, which are a command, and which are options.

``submit FILE`` takes options on both sides of FILE, and whatever stands behind ``--`` or is no
option goes to the script. ``submit -- COMMAND`` and ``submit COMMAND`` leave all words from the
first on to the command, whose options must never be taken for ours.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

STDIN = "-"


def is_behind_dashes(line: Sequence[str], words: Sequence[str]) -> bool:
    """Whether ``--`` stands right before these last words of the command line."""
    before = len(line) - len(words) - 1
    return before >= 0 and line[before] == "--"


def names_file(word: str) -> bool:
    """Whether a first word names a document or script; a program is a command.

    A pipe counts as a file, such as a shell makes of ``<(...)``: it is none that a job could run.
    """
    if word == STDIN or _is_pipe(word):
        return True
    if not os.path.isfile(word):  # noqa: PTH113 - a word may be longer than a path can be
        return word.endswith((".yaml", ".yml"))
    try:
        with Path(word).open("rb") as file:
            return file.read(4) != b"\x7fELF"
    except OSError:
        return True


def _is_pipe(word: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(word).st_mode)  # noqa: PTH116 - as above
    except (OSError, ValueError):
        return False


class CommandLine(TyperCommand):
    """A command whose last words are FILE with arguments, or a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer; behind the first word options are ours only where that word is a file."""
        ctx.allow_interspersed_args = False
        if not ctx.resilient_parsing:
            parser: Any = self.make_parser(ctx)
            words = list(parser.parse_args(args=list(args))[0].get("words") or ())
            is_file = bool(words) and names_file(words[0]) and not is_behind_dashes(args, words)
            ctx.allow_interspersed_args = is_file
        return super().parse_args(ctx, args)
