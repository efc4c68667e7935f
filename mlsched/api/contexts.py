"""Contexts: ``local`` for this machine, and every context of the kubeconfig by its name.

Which one counts is said by a flag or argument, then by ``MLSCHED_CONTEXT``, then by
``current_context`` in config.toml. Names are read from files alone; nothing is asked.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from mlsched.api.interfaces import AnyClient
from mlsched.config import Paths, load_settings
from mlsched.errors import ConfigError

LOCAL = "local"
CONTEXT_VARIABLE = "MLSCHED_CONTEXT"
NAMESPACE_VARIABLE = "MLSCHED_NAMESPACE"
IN_CLUSTER = "in-cluster"
"""The service account of the pod that this runs in."""

_CURRENT = re.compile(r"""^[ \t]*["']?current_context["']?[ \t]*=.*\n?""", re.MULTILINE)


def current_context(paths: Paths) -> str:
    """The context for whoever names none.

    Raises:
        ConfigError: config.toml cannot be read.
    """
    return os.environ.get(CONTEXT_VARIABLE) or _written_context(paths.config_file) or LOCAL


def _written_context(path: Path) -> str:
    try:
        if b"current_context" not in path.read_bytes():
            return ""
    except OSError:
        return ""
    return load_settings(path).current_context


def check_context(context: str) -> str:
    """The context, which must exist.

    Raises:
        ConfigError: it does not; the nearest names are told.
    """
    if context == LOCAL:
        return context
    from mlsched.adapters.kubernetes.configs import read_contexts

    names = [LOCAL, *read_contexts().namespaces]
    if context in names or context == IN_CLUSTER:
        return context
    raise ConfigError(f"there is no context {context[:60]!r}.", _hint(context, names))


def _hint(context: str, names: list[str]) -> str:
    from difflib import get_close_matches

    if context.isdecimal():
        return f"Slurm's -c {context} is --cpus {context} here."
    near = get_close_matches(context[:60], names, 3)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    if len(names) == 1:
        return f"There is only {LOCAL!r}: no kubeconfig has contexts. KUBECONFIG names its file."
    return f"One of: {', '.join(map(repr, names[:10]))}. 'mlsched context ls' shows all."


def open_client(
    context: str,
    paths: Paths | None = None,
    *,
    namespace: str = "",
    on_problem: Callable[[str], None] = lambda line: None,
) -> AnyClient:
    """The client of a context; nothing is sent yet, and nothing is started.

    Args:
        namespace: In place of that of ``MLSCHED_NAMESPACE`` and of the context.
        on_problem: Takes one line on output that cannot be shown.

    Raises:
        ConfigError: the context cannot be used.
        SpecError: the namespace can be none.
    """
    paths = paths or Paths.from_environment()
    if context == LOCAL:
        from mlsched.api.client import Client

        return Client(paths)
    from mlsched.adapters.kubernetes.configs import load_access, load_in_cluster
    from mlsched.api.clusters.clients import ClusterClient
    from mlsched.specs.limits import check_name

    settings = load_settings(paths.config_file).contexts.get(context)
    access = load_in_cluster() if context == IN_CLUSTER else load_access(context=context)
    wanted = (
        namespace or os.environ.get(NAMESPACE_VARIABLE) or (settings.namespace if settings else "")
    )
    check_name(wanted or access.namespace, "namespace")
    return ClusterClient(paths, access, wanted, settings.image if settings else "", on_problem)


def connect_to(context: str = "") -> AnyClient:
    """The client of a context, or of the current one; a local service listens when this returns.

    Raises:
        ConfigError: there is no such context.
        UnreachableError: the local service cannot be started.
    """
    paths = Paths.from_environment()
    name = context or current_context(paths)
    if name == LOCAL:
        from mlsched.api.client import connect

        return connect(paths)
    check_context(name)
    from mlsched.adapters.kubernetes.configs import stamp_files

    files = stamp_files(paths.config_file)
    return _kept(name, (*files, os.environ.get(NAMESPACE_VARIABLE, ""), os.getpid()))


@lru_cache(maxsize=16)
def _kept(name: str, stamp: tuple[object, ...]) -> AnyClient:
    """One client a context, so that its connections are kept.

    Args:
        stamp: What a client was made of: a new login, other settings, and a process that was
            forked get one of their own.
    """
    return open_client(name, on_problem=_warn)


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=2)


def write_current(path: Path, context: str) -> None:
    """Set ``current_context`` in config.toml, and leave the rest of it as it is.

    Raises:
        ConfigError: it cannot be written, or the rest of it cannot be told from that line.
    """
    import tomllib

    try:
        path = path.resolve()
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = _with_current(before, context)
        if tomllib.loads(after) != {**tomllib.loads(before), "current_context": context}:
            raise ConfigError(
                f"cannot tell the line of current_context in {path}.",
                f"Write it yourself, as the first line: {after.partition(chr(10))[0]}",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, after)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {error}.") from error


def _with_current(text: str, context: str) -> str:
    """The text with a new first line in place of the one that said it."""
    import json

    # Escapes of JSON are those of TOML, but for pairs of surrogates and for DEL.
    quoted = json.dumps(context, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"current_context = {quoted}\n{_CURRENT.sub('', text)}"


def _replace(path: Path, text: str) -> None:
    """Put a file in place at once, with the permissions that it had."""
    import shutil

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
