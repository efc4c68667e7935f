"""What holds for every command: form of the output, colours, context; and the client it uses.

Data goes to standard output, everything for the eyes of people to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlsched.errors import SpecError

if TYPE_CHECKING:
    from mlsched.api.interfaces import AnyClient
    from mlsched.config import Paths, Settings

OUTPUTS = ("table", "wide", "json", "yaml", "name")


class Session:
    """One run of a command.

    Args:
        output: ``table``, ``wide``, ``json``, ``yaml``, ``name``, or empty for the default.
        context: Where to send requests: ``local``, a context of the kubeconfig, or empty for the
            current one.
        namespace: In which to work in a cluster; empty for that of the context.
        words: The whole command line.
        quiet: Say nothing but data and errors.
        no_color: Never use colours.
        no_headers: Tables without a head.
        no_input: Never ask anything.

    Raises:
        SpecError: an output that does not exist.
        ConfigError: a context that does not exist.
    """

    def __init__(  # noqa: PLR0913 - one parameter a common option
        self,
        output: str = "",
        context: str = "",
        *,
        namespace: str = "",
        words: Sequence[str] = (),
        quiet: bool = False,
        no_color: bool = False,
        no_headers: bool = False,
        no_input: bool = False,
    ) -> None:
        self.output = _check_output(output or os.environ.get("MLSCHED_OUTPUT") or "table")
        self._asked_context = context
        self._namespace = namespace
        self.words = list(words)
        self.quiet = quiet
        self.headers = not no_headers
        self.may_ask = not (no_input or os.environ.get("MLSCHED_NO_INPUT"))
        self._no_color = no_color

    @property
    def is_data(self) -> bool:
        """Whether the output is for programs."""
        return self.output in ("json", "yaml", "name")

    @cached_property
    def paths(self) -> Paths:
        """Where settings and caches are."""
        from mlsched.config import Paths

        return Paths.from_environment()

    @property
    def asked_context(self) -> str:
        """Where requests are to go, whether there is such a context or not."""
        from mlsched.api.contexts import current_context

        return self._asked_context or current_context(self.paths)

    @cached_property
    def context(self) -> str:
        """Where requests go.

        Raises:
            ConfigError: there is no such context.
        """
        from mlsched.api.contexts import check_context

        return check_context(self.asked_context)

    @property
    def is_local(self) -> bool:
        """Whether requests go to the service of this machine."""
        return self.context == "local"

    @cached_property
    def client(self) -> AnyClient:
        """The client; a local service starts with the first request."""
        from mlsched.api.contexts import open_client

        return open_client(
            self.context, self.paths, namespace=self._namespace, on_problem=self.tell
        )

    @cached_property
    def settings(self) -> Settings:
        """config.toml."""
        from mlsched.config import load_settings

        return load_settings(self.paths.config_file)

    def has_color(self, stream: Any = None) -> bool:
        """Whether colours are wanted on a stream, standard output by default."""
        if self._no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        if os.environ.get("FORCE_COLOR"):
            return True
        return bool((stream or sys.stdout).isatty())

    @property
    def hints(self) -> bool:
        """Whether a person at a terminal may want to know what comes next."""
        return not self.quiet and sys.stderr.isatty()

    def hint(self, text: str) -> None:
        """A next step, for a person at a terminal."""
        if self.hints:
            write_error(text)

    def tell(self, text: str) -> None:
        """Something that happens, on standard error, also in logs of CI."""
        if not self.quiet:
            write_error(text)

    def next_command(self, words: str, job: Mapping[str, Any]) -> str:
        """A command on a job that may be typed next: it goes where this one went."""
        from shlex import quote

        where = f" -c {quote(self._asked_context)}" if self._asked_context else ""
        return f"mlsched{where} {words} {quote(job['name'] if self.is_local else job['id'])}"

    def emit(self, value: Any, table: Callable[[], str], names: Iterable[str] = ()) -> None:
        """Print a value in the form that is asked for.

        Args:
            value: Plain values, for JSON and YAML.
            table: Makes the text for people.
            names: What ``-o name`` prints, one a line.
        """
        if self.output == "json":
            from mlsched.cli.render.documents import to_json

            write(to_json(value))
        elif self.output == "yaml":
            from mlsched.specs.documents import to_yaml

            write(to_yaml(value).rstrip("\n"))
        elif self.output == "name":
            write("\n".join(names))
        else:
            write(table())


def write_error(text: str) -> None:
    """Text and a newline on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Text and a newline on standard output; nothing for empty text.

    What the terminal's encoding lacks is spelt out rather than failing.
    """
    if text:
        encoding = sys.stdout.encoding or "utf-8"
        data = f"{text}\n".encode(encoding, "backslashreplace")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _check_output(output: str) -> str:
    if output not in OUTPUTS:
        from difflib import get_close_matches

        near = get_close_matches(output[:40], OUTPUTS, 1)
        hint = f"Did you mean {near[0]}?" if near else f"One of: {', '.join(OUTPUTS)}."
        raise SpecError(f"--output: there is no form {output[:40]!r}.", hint)
    return output
