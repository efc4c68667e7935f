"""``mlsched config``: what is set, and where that was said."""

from __future__ import annotations

import os
import tomllib
from typing import Any

from mlsched.cli.catalogue import Entry
from mlsched.cli.session import Session

COMMANDS = {
    "show": Entry("mlsched.cli.config:show", "Show each setting and where it comes from."),
    "path": Entry("mlsched.cli.config:path", "Print where config.toml is read from."),
}


def path(session: Session) -> int:
    """Print the path of config.toml; it need not exist."""
    found = str(session.paths.config_file)
    session.emit({"path": found}, lambda: found, [found])
    return 0


def show(session: Session) -> int:
    """Show each setting, its value, and where it comes from."""
    rows = effective_settings(session)

    def text() -> str:
        from mlsched.cli.render.tables import format_table

        cells = [[row["name"], str(row["value"]), row["source"]] for row in rows]
        return format_table(("SETTING", "VALUE", "SOURCE"), cells, heads=session.headers)

    session.emit(rows, text, [row["name"] for row in rows])
    return 0


def effective_settings(session: Session) -> list[dict[str, Any]]:
    """Name, value and source of every setting: directories, groups of config.toml, flags."""
    paths, settings = session.paths, session.settings
    rows = [
        _row("config_file", str(paths.config_file), _variable("MLSCHED_CONFIG", "XDG_CONFIG_HOME")),
        _row("state_dir", str(paths.state_dir), _variable("XDG_STATE_HOME")),
        _row("cache_dir", str(paths.cache_dir), _variable("XDG_CACHE_HOME")),
        _row("socket", str(paths.socket), _variable("XDG_RUNTIME_DIR")),
    ]
    written = _written(paths.config_file)
    for group in ("service", "logs", "node"):
        values = getattr(settings, group)
        for name in values.__struct_fields__:
            source = "config.toml" if name in written.get(group, {}) else "default"
            rows.append(_row(f"{group}.{name}", getattr(values, name), source))
    return rows + _flag_rows(settings.defaults)


def _flag_rows(defaults: dict[str, str]) -> list[dict[str, Any]]:
    """Flags that are set for every job, and by what; the environment wins."""
    from mlsched.api.layering import default_flags, environment_flags, variable_of
    from mlsched.specs.flags import find_flag

    rows = {name: _row(f"flag {name}", value, "config.toml, [defaults]")
            for name, value in default_flags(defaults)}  # fmt: skip
    for name, value in environment_flags(os.environ):
        rows[name] = _row(f"flag {name}", value, variable_of(find_flag(name)))
    return list(rows.values())


def _row(name: str, value: Any, source: str) -> dict[str, Any]:
    return {"name": name, "value": value, "source": source}


def _variable(*names: str) -> str:
    return next((name for name in names if os.environ.get(name)), "default")


def _written(path: Any) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
