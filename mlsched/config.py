"""Where things are and how they are set: XDG directories, the config file, the environment.

The only module that reads ``os.environ`` for settings. Everything else gets values.
"""

from __future__ import annotations

import hashlib
import os
import stat
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from platformdirs import PlatformDirs

from mlsched.errors import ConfigError
from mlsched.units import GIB, MIB

APP = "mlsched"


class Paths(Struct, frozen=True):
    """The directories and files of one installation; a fresh ``HOME`` gives fresh ones."""

    config_file: Path
    state_dir: Path
    """Database, job directories, blobs, service log. Mode 0700."""
    cache_dir: Path
    socket: Path

    @property
    def database(self) -> Path:
        """The one SQLite file; only the service opens it."""
        return self.state_dir / "state.db"

    @property
    def service_log(self) -> Path:
        """What the service and its children print."""
        return self.state_dir / "service.log"

    @property
    def lock(self) -> Path:
        """Held by the service with flock: one service a state directory."""
        return self.state_dir / "service.lock"

    @property
    def socket_link(self) -> Path:
        """Link to the socket that is served.

        By it a login with another runtime directory, such as plain cron's, finds the service.
        """
        return self.state_dir / "service.socket"

    @property
    def jobs_dir(self) -> Path:
        """``JOB_ID/ATTEMPT/`` below: launch, claim, logs and exit status of each attempt."""
        return self.state_dir / "jobs"

    @property
    def blobs_dir(self) -> Path:
        """``sha256-HEX``: functions and scripts by content, never opened by the service."""
        return self.state_dir / "blobs"

    @classmethod
    def from_environment(cls) -> Paths:
        """The paths that the XDG variables and ``HOME`` give; nothing is created.

        The socket's name holds a hash of the state directory, so that two installations of one
        user never share a service, and stays short enough for a socket address (107 bytes).
        """
        dirs = PlatformDirs(APP, appauthor=False)
        state_dir = Path(dirs.user_state_path).absolute()
        digest = hashlib.blake2b(os.fsencode(state_dir), digest_size=6).hexdigest()
        config = os.environ.get("MLSCHED_CONFIG")
        return cls(
            config_file=Path(config) if config else Path(dirs.user_config_path) / "config.toml",
            state_dir=state_dir,
            cache_dir=Path(dirs.user_cache_path),
            socket=_runtime_dir() / f"{digest}.sock",
        )

    def create(self) -> None:
        """Make the state and socket directories, private to this user.

        Raises:
            ConfigError: one is a file, belongs to another user, or cannot be made or written.
        """
        for directory in (self.state_dir, self.jobs_dir, self.blobs_dir, self.socket.parent):
            _make_private(directory)


def _runtime_dir() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK) and len(runtime) < 64:
        return Path(runtime) / APP
    return Path("/tmp") / f"{APP}-{os.getuid()}"


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise ConfigError(
            f"cannot make the directory {directory}: {error.strerror}.",
            "Set XDG_STATE_HOME to a directory that you can write to, or free some space.",
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{directory} must be a directory of its own, not a link or a file.")
    if found.st_uid != os.getuid():
        raise ConfigError(
            f"{directory} belongs to user {found.st_uid}, not to you ({os.getuid()}).",
            "Set XDG_STATE_HOME (and XDG_RUNTIME_DIR) to directories of your own.",
        )
    if found.st_mode & 0o077:
        directory.chmod(0o700)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{directory} is read-only: mlsched keeps its jobs there.",
            "Set XDG_STATE_HOME to a directory that you can write to.",
        )


class ServiceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The service of one machine."""

    idle_exit_s: float = 600.0
    """Seconds without jobs or requests before the service ends: long enough for a work session
    of commands, short enough that nothing is left behind overnight."""
    inventory_period_s: float = 15.0
    """Between two readings of the GPUs: the tier of utilisation and memory in the GPU notes."""
    free_bytes_min: int = 64 * MIB
    """New jobs are refused while the disk has less: ends of running jobs still need room."""
    retry_delay_s: float = 1.0
    """Before the first retry of a failed job; doubles each time up to ``retry_delay_s_max``."""
    retry_delay_s_max: float = 300.0


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Output of jobs."""

    bytes_max: int = 256 * MIB
    """Size at which the output of a rank is rotated."""
    files_max: int = 4
    """Files kept for a rank, the newest included: at most 1 GiB with the default size."""


class NodeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What of this machine may be given to jobs; 0 means all of it."""

    milli_cpus: int = 0
    memory_bytes: int = 0
    cgroups: bool = True
    """False: never use cgroups, watch the memory of the process tree instead."""


class ContextSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One context of the kubeconfig, in ``[contexts.NAME]``."""

    namespace: str = ""
    """In place of the kubeconfig's."""
    image: str = ""
    """For jobs that name none."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one machine, in groups; the same names stand in config.toml."""

    service: ServiceSettings = ServiceSettings()
    logs: LogSettings = LogSettings()
    node: NodeSettings = NodeSettings()
    defaults: dict[str, str] = {}
    """Default flags of ``submit`` and ``run``, by long name: ``queue = "night"``."""
    contexts: dict[str, ContextSettings] = {}
    current_context: str = ""
    """Where commands go that name no context; empty for this machine."""


LOG_BYTES_MAX_ALLOWED = 64 * GIB


_SETTINGS = msgspec.json.Decoder(Settings)


def load_settings(path: Path) -> Settings:
    """The settings of a TOML file; the defaults where there is none.

    Raises:
        ConfigError: not TOML, an unknown key (the nearest known one is named), a wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings in {path}: {error}.") from error
    import tomllib

    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    _refuse_unknown(found, path)
    try:
        return msgspec.convert(found, _SETTINGS.type)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}.") from error


def _refuse_unknown(found: dict[str, Any], path: Path) -> None:
    groups = {"service": ServiceSettings, "logs": LogSettings, "node": NodeSettings}
    known = [*groups, "defaults", "contexts", "current_context"]
    _refuse_keys(found, known, str(path))
    for name, group in groups.items():
        if isinstance(found.get(name), dict):
            _refuse_keys(found[name], list(group.__struct_fields__), f"{path}: [{name}]")


def _refuse_keys(found: dict[str, Any], known: list[str], where: str) -> None:
    for key in found:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise ConfigError(f"{where}: unknown key {key!r}.", hint)


def current_user() -> str:
    """Name of the user whose jobs these are; the number where there is no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
