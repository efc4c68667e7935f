"""``mlsched demo``: the tour, which lives in a package of its own."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer


def demo(
    kubernetes: Annotated[
        bool,
        typer.Option("--kubernetes", help="On a cluster that is started for it; as root."),
    ] = False,
) -> int:
    """Take a tour: build a data set, train on it, follow the job, and read its report."""
    if kubernetes:
        return _demo_on_kubernetes()
    try:
        tour = import_module("mlsched.demo.tour")
    except ModuleNotFoundError as error:
        from mlsched.errors import ConfigError

        raise ConfigError(
            f"the demo needs the package {error.name}.", "Install it: pip install 'mlsched[demo]'."
        ) from error
    raise typer.Exit(int(tour.main() or 0))


def _demo_on_kubernetes() -> int:
    """The tour on a control plane and nodes of this machine; they are part of a checkout only.

    Raises:
        ConfigError: this is no checkout.
    """
    import subprocess
    from pathlib import Path

    from mlsched.errors import ConfigError

    root = Path(__file__).parents[2]
    if not (root / "tests" / "controlplane" / "demos.py").is_file():
        raise ConfigError(
            "the demo on Kubernetes needs a checkout of mlsched: it builds a control plane.",
            "On a cluster of yours: mlsched run -c CONTEXT --image IMAGE -- COMMAND.",
        )
    words = [sys.executable, "-m", "tests.controlplane.demos"]
    raise typer.Exit(subprocess.run(words, cwd=root, check=False).returncode)
