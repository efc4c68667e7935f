"""Names for jobs that were given none, from what they run. Pure."""

from __future__ import annotations

from pathlib import PurePath

from mlsched.model.specs import JobSpec
from mlsched.specs.limits import clean_name

_INTERPRETERS = ("python", "bash", "sh", "zsh", "uv", "env", "nice", "time")


def derive_base(spec: JobSpec, file: str = "") -> str:
    """A short readable name: ``train`` of ``python -u train.py --lr 1``, ``job`` when all fails.

    Args:
        file: Name of the file that a script came from, when it came from one.
    """
    if spec.script:
        return clean_name(PurePath(file).stem)[:40] or "script"
    words = [word for word in spec.command if word and "=" not in word]
    for position, word in enumerate(words):
        stem = PurePath(word).name
        program = stem.rstrip("0123456789.")
        if position and word.startswith("-"):
            if word in ("-c", "-e"):
                return clean_name(PurePath(words[0]).name) or "job"
            continue
        if program in _INTERPRETERS and position + 1 < len(words):
            continue
        return clean_name(stem.rsplit(".", 1)[0] if position else stem)[:40] or "job"
    return clean_name(PurePath(words[0]).name) if words else "job"
