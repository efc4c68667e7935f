"""The options of Slurm's sbatch: their names, which take a value, and how words become options.

All of them are listed, those that mlsched lacks too: only so is it known whether the next word is
a value, and which option an abbreviation means.

Source: sbatch(1) and getopt_long(3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from mlsched.errors import SpecError
from mlsched.specs.problems import show

_WITH_VALUE = """
    a=array A=account acctg-freq batch bb bbf b=begin D=chdir cluster-constraint M=clusters comment
    C=constraint container container-id S=core-spec cores-per-socket cpu-freq cpus-per-gpu
    c=cpus-per-task deadline delay-boot d=dependency m=distribution e=error x=exclude export
    export-file extra B=extra-node-info gid gpu-bind gpu-freq G=gpus gpus-per-node gpus-per-socket
    gpus-per-task gres gres-flags hint i=input J=job-name kill-on-invalid-dep L=licenses mail-type
    mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network w=nodelist F=nodefile
    N=nodes n=ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode
    o=output p=partition power prefer priority profile q=qos reservation resources-file segment
    signal sockets-per-node switches thread-spec threads-per-core t=time time-min tmp tres-bind
    tres-per-task uid wait-all-nodes wckey wrap
"""
_WITH_OPTIONAL_VALUE = """
    exclusive get-user-env I=immediate k=no-kill nice oom-kill-step propagate
"""
_WITHOUT_VALUE = """
    consolidate-segments contiguous h=help H=hold ignore-pbs no-requeue O=overcommit s=oversubscribe
    parsable Q=quiet reboot requeue share spread-job stepmgr test-only usage use-min-nodes v=verbose
    V=version W=wait
"""
_SYNONYMS = {
    "--workdir": "--chdir",
    "--cluster": "--clusters",
    "--tasks-per-node": "--ntasks-per-node",
}


class Option(Struct, frozen=True):
    """One option as it was written."""

    name: str
    """The full long name, such as ``--gpus-per-node``; as it was written if Slurm has none such."""
    value: str
    line: int
    written: str
    """``-c`` or an abbreviation; equal to ``name`` where that was written out."""

    @property
    def shown(self) -> str:
        """The option in a message: ``--nodelist (-w)``."""
        return self.name if self.written == self.name else f"{self.name} ({self.written})"


def _parse_table() -> tuple[dict[str, str], dict[str, str]]:
    kinds, shorts = {}, {}
    for kind, text in (("1", _WITH_VALUE), ("?", _WITH_OPTIONAL_VALUE), ("0", _WITHOUT_VALUE)):
        for entry in text.split():
            short, _, name = entry.rpartition("=")
            kinds[f"--{name}"] = kind
            if short:
                shorts[short] = f"--{name}"
    return kinds, shorts


_KINDS, _SHORTS = _parse_table()
"""Long names to ``1`` (takes a value), ``?`` (may), ``0`` (does not); letters to long names."""

HETEROGENEOUS = ("hetjob", "packjob")


def full_name(name: str) -> str:
    """The long name that a written one means: itself, a synonym, or what it abbreviates."""
    if name in _KINDS:
        return name
    if name in _SYNONYMS:
        return _SYNONYMS[name]
    begun = [known for known in _KINDS if known.startswith(name)]
    return begun[0] if len(begun) == 1 else name


def read_options(words: Iterable[str], line: int) -> Iterator[Option]:
    """The options that the words of one line are; a stray word is an option without a dash.

    Raises:
        SpecError: an option without its value, or the separator of a heterogeneous job.
    """
    left = list(words)
    while left:
        word = left.pop(0)
        if word in HETEROGENEOUS:
            raise SpecError(
                f"#SBATCH line {line}: {word}: mlsched has no jobs of several unlike groups.",
                "Submit each group as a job of its own, ordered with --after where needed.",
            )
        if word.startswith("--"):
            yield _read_long(word, left, line)
        elif word.startswith("-") and len(word) > 1:
            yield from _read_short(word, left, line)
        else:
            yield Option(word, "", line, word)


def _read_long(word: str, left: list[str], line: int) -> Option:
    written, equals, value = word.partition("=")
    name = full_name(written)
    kind = _KINDS.get(name)
    if equals:
        return Option(name, value, line, written)
    if kind == "1":
        return Option(name, _take(left, written, line), line, written)
    if kind is None:
        _drop_values(left)
    return Option(name, "", line, written)


def _read_short(word: str, left: list[str], line: int) -> Iterator[Option]:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _SHORTS.get(letter, f"-{letter}")
        kind = _KINDS.get(name)
        value = ""
        if kind == "1":
            value = letters.removeprefix("=") if letters else _take(left, f"-{letter}", line)
        elif kind == "?":
            value = letters
        elif kind is None:
            _drop_values(left)
        yield Option(name, value, line, f"-{letter}")
        if kind != "0":
            return


def _take(left: list[str], written: str, line: int) -> str:
    if not left:
        raise SpecError(f"#SBATCH line {line}: {show(written)} needs a value.")
    return left.pop(0)


def _drop_values(left: list[str]) -> None:
    while left and not left[0].startswith("-"):
        left.pop(0)
