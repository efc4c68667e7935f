"""``mlsched demo``: the tour, which lives in a package of its own."""

from __future__ import annotations

from importlib import import_module

import typer


def demo() -> int:
    """Take a tour: build a data set, train on it, follow the job, and read its report."""
    try:
        tour = import_module("mlsched.demo.tour")
    except ModuleNotFoundError as error:
        from mlsched.errors import ConfigError

        raise ConfigError(
            f"the demo needs the package {error.name}.", "Install it: pip install 'mlsched[demo]'."
        ) from error
    raise typer.Exit(int(tour.main() or 0))
