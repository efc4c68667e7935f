"""A pipeline as a job: the command of each rank, and how the file travels to other machines.

On this machine the ranks run the file where it lies. To a cluster its text travels in the job, as
a script whose first line runs `mlsched pipeline member`: an image needs mlsched and the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from mlsched.api.pipelines.loading import Target
from mlsched.errors import SpecError
from mlsched.model.specs import JobSpec
from mlsched.units import format_bytes

MEMBER_LINE = "#!/usr/bin/env -S mlsched pipeline member\n"
"""Before the text of a file that travels; the kernel puts the script's path behind it."""

SOURCE_BYTES_MAX = 200 * 1024
"""Of a file that travels. A pod's annotations have 256 KiB, and the script is one of them.

Source: TotalAnnotationSizeLimitB of Kubernetes' apimachinery.
"""


class MemberArguments(Struct, frozen=True):
    """What each rank of the job is told."""

    engine: str
    cpus: int
    memory_max_bytes: int = 0
    """Of each rank; 0 for no bound."""
    interval: str = ""
    parameters: Sequence[str] = ()
    """``KEY=VALUE``."""
    output: str = ""
    """Form of the run's summary on rank 0."""

    def words(self) -> tuple[str, ...]:
        """As words of a command line."""
        words = ["--engine", self.engine, "--cpus", str(self.cpus)]
        if self.memory_max_bytes:
            words += ["--memory", str(self.memory_max_bytes)]
        if self.interval:
            words += ["--interval", self.interval]
        for parameter in self.parameters:
            words += ["--set", parameter]
        return (*words, *(["--output", self.output] if self.output else []))


def build_spec(target: Target, arguments: MemberArguments, *, nodes: int, travels: bool) -> JobSpec:
    """The spec of a gang that runs a pipeline, without what flags say.

    Args:
        target: A file, and the name of a pipeline in it.
        arguments: For each rank.
        nodes: Ranks.
        travels: Whether the text goes with the job.

    Raises:
        SpecError: the file cannot travel.
    """
    words = arguments.words()
    if travels:
        script = MEMBER_LINE + read_source(target.file)
        return JobSpec(
            script=script,
            command=(*words, "--source", str(target)),
            nodes=nodes,
            gang_token=nodes > 1,
        )
    where = f"{target.file}:{target.name}" if target.name else str(target.file)
    command = (sys.executable, "-m", "mlsched", "pipeline", "member", where, *words)
    return JobSpec(command=command, nodes=nodes, gang_token=nodes > 1)


def read_source(file: Path) -> str:
    """The text of a file that is to travel, with the line ends of Unix.

    Raises:
        SpecError: it is too large, or not UTF-8.
    """
    data = file.read_bytes()
    if len(data) > SOURCE_BYTES_MAX:
        raise SpecError(
            f"{file.name} has {format_bytes(len(data))}, and {format_bytes(SOURCE_BYTES_MAX)} of "
            "text travel in a job.",
            "Put most of it into a package of the image, and import that.",
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{file.name} is not UTF-8 at byte {error.start}, and cannot travel in a job."
        ) from error
    return text.replace("\r\n", "\n")


def unpack_source(script: Path, source: str, folder: Path) -> Target:
    """Put a text that has travelled into a folder under its own name, line by line as it was.

    Raises:
        SpecError: the script does not begin as `build_spec` makes it, or the name is none.
    """
    text = script.read_text(encoding="utf-8")
    file, _, name = source.partition(":")
    if not text.startswith(MEMBER_LINE) or Path(file).name != file or not file.endswith(".py"):
        raise SpecError(
            f"expected a script that 'mlsched pipeline submit' made, and FILE.py:NAME; found "
            f"{script.name[:80]!r} and {source[:80]!r}.",
        )
    path = folder / file
    path.write_text(text.removeprefix(MEMBER_LINE), encoding="utf-8")
    return Target(path, name)
