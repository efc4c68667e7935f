"""The progress of a pipeline's run on standard error: a bar at a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from mlsched.cli.render.pipelines import progress_share, progress_text
from mlsched.cli.session import Session, write_error

if TYPE_CHECKING:
    from mlsched_pipelines.progress import Progress

LINE_PERIOD_S = 10.0
LINE_PERIOD_S_MIN = 1.0
"""A short run must not fill a log with its ten lines."""
LINE_STEPS = 10
"""Lines of a run whose tenths take longer than `LINE_PERIOD_S_MIN`."""

_BAR_CELLS = 16
"""With the usual text beside it, a line of 80 columns."""


class Meter(ExitStack):
    """Shows nothing; a context manager around the run."""

    def show(self, progress: Progress) -> None:
        """A task has ended, or some seconds went by."""

    def stop(self) -> None:
        """Show nothing more."""
        self.close()


class Lines(Meter):
    """One line at each tenth of the input, and after each `LINE_PERIOD_S`; never two a second."""

    def __init__(self) -> None:
        super().__init__()
        self._told_s = time.monotonic()
        self._step = 0

    def show(self, progress: Progress) -> None:
        """Print a line if one is due."""
        since_s = time.monotonic() - self._told_s
        step = int(progress_share(progress) * LINE_STEPS)
        is_due = step > self._step and since_s >= LINE_PERIOD_S_MIN
        if is_due or since_s >= LINE_PERIOD_S:
            self._step, self._told_s = step, time.monotonic()
            # A reader that has left, or a log on a full disk, must not end the run.
            with suppress(OSError):
                write_error(progress_text(progress))


class Bar(Meter):
    """A bar that is redrawn, and is gone at the end.

    Args:
        color: Whether it may have colours.
    """

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Draw an empty bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(stderr=True, no_color=not self._color, highlight=False)
        line = Column(no_wrap=True, overflow="ellipsis")
        text = TextColumn("{task.description}", markup=False, table_column=line)
        columns = (BarColumn(bar_width=_BAR_CELLS), text)
        here = sys.stdout.isatty()
        bar = Progress(*columns, console=console, transient=True, redirect_stdout=here)
        self._bar = self.enter_context(bar)
        self._task = self._bar.add_task("starting", total=1.0)
        return super().__enter__()

    def show(self, progress: Progress) -> None:
        """Move the bar."""
        told = progress_text(progress)
        self._bar.update(self._task, completed=progress_share(progress), description=told)


def make_meter(session: Session) -> Meter:
    """What fits where standard error goes.

    Programs that take JSON read errors from standard error: they get no lines there.
    """
    if session.quiet:
        return Meter()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bar(color=session.has_color(sys.stderr))
    return Meter() if session.is_data else Lines()
