"""The commit: one new manifest, whose name only one writer can create.

    DATASET/manifest/v0000042.json     what readers resolve; never changed once it is there
    DATASET/data/RUN_ID/*.arrow        shards, of use only if a manifest lists them
    DATASET/data/RUN_ID/TASK.done      what a finished task left, so that a restart resumes

A crash leaves nothing but files that no manifest lists; `collect_orphans` removes them by age.
"""

from __future__ import annotations

import time
from pathlib import Path

from mlsched.errors import ConflictError, NotFoundError, PipelineError
from mlsched_pipelines.manifests import (
    FileRecord,
    Manifest,
    RunRecord,
    decode_manifest,
    encode,
    next_manifest,
)
from mlsched_pipelines.stores.files import TEMPORARY_PREFIX, make_folder, publish_new, sync_folder

TRIES_MAX = 100
ORPHAN_AGE_S_MIN = 7 * 86_400


def manifest_folder(root: Path) -> Path:
    """Where a dataset's manifests lie."""
    return root / "manifest"


def manifest_path(root: Path, version: int) -> Path:
    """The manifest of a version."""
    return manifest_folder(root) / f"v{version:07d}.json"


def list_versions(root: Path) -> list[int]:
    """Published versions, oldest first; empty where nothing was published."""
    found = manifest_folder(root).glob("v*.json")
    return sorted(int(path.stem[1:]) for path in found if path.stem[1:].isdecimal())


def read_manifest(root: Path, version: int | None = None) -> Manifest:
    """A version's manifest, the newest by default.

    Raises:
        NotFoundError: there is no such version, or none at all.
        PipelineError: the manifest is damaged.
    """
    versions = list_versions(root)
    if not versions:
        raise NotFoundError(f"There is no dataset in {root}.", "Run a plan that writes it first.")
    wanted = versions[-1] if version is None else version
    if wanted not in versions:
        raise NotFoundError(
            f"The dataset {root} has versions {versions[0]}..{versions[-1]}, not {wanted}."
        )
    path = manifest_path(root, wanted)
    return decode_manifest(path.read_bytes(), str(path))


def last_manifest(root: Path) -> Manifest | None:
    """The newest manifest, or None before the first commit."""
    return read_manifest(root) if list_versions(root) else None


def commit(
    root: Path, run: RunRecord, files: tuple[FileRecord, ...], schema: str
) -> tuple[Manifest, bool]:
    """Publish a run as the next version, exactly once.

    Of two committers of one run, one publishes and the other finds it done. Of two runs, the one
    that comes second is made again on top of the first. All files must be durable already.

    Returns:
        The manifest with the run in it, and whether this call published it.

    Raises:
        PipelineError: the schema differs from what the dataset's other runs hold.
        ConflictError: others committed a hundred times meanwhile.
    """
    make_folder(manifest_folder(root))
    for _ in range(TRIES_MAX):
        last = last_manifest(root)
        if last is not None and last.find_run(run.key) is not None:
            return last, False
        made = next_manifest(last, run, files, schema)
        if publish_new(manifest_path(root, made.version), encode(made)):
            return made, True
    raise ConflictError(
        f"The dataset {root} was committed to {TRIES_MAX} times while this run tried."
    )


def collect_orphans(
    root: Path, *, age_s_min: float = ORPHAN_AGE_S_MIN, now: float | None = None
) -> list[Path]:
    """Remove files that no manifest lists and nobody changed for ``age_s_min``.

    A run that is still at work keeps its folder young with every task; give an age well above the
    longest task. All published versions stay readable.

    Args:
        root: The dataset's directory.
        age_s_min: Seconds since the last change.
        now: Seconds since the epoch; the clock's by default.

    Returns:
        What was removed.
    """
    if not list_versions(root) and not (root / "data").is_dir():
        raise PipelineError(f"{root} is not a dataset: expected a folder manifest or data in it.")
    kept = _listed_files(root)
    oldest = (time.time() if now is None else now) - age_s_min
    removed: list[Path] = []
    for run in (root / "data").iterdir() if (root / "data").is_dir() else ():
        young = any(_changed_at(path) > oldest for path in run.iterdir())
        orphans = [] if young else [path for path in run.iterdir() if path not in kept]
        removed.extend(orphans)
    for path in manifest_folder(root).glob(f"{TEMPORARY_PREFIX}*"):
        if _changed_at(path) <= oldest:
            removed.append(path)
    # Markers go first, durably: a marker without its files would let a later run skip the task.
    markers = [path for path in removed if path.suffix == ".done"]
    for path in markers:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in markers}:
        sync_folder(folder)
    for path in removed:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in removed if path.parent.parent == root / "data"}:
        if not any(folder.iterdir()):
            folder.rmdir()
    return removed


def _listed_files(root: Path) -> set[Path]:
    listed: set[Path] = set()
    for version in list_versions(root):
        manifest = read_manifest(root, version)
        listed |= {root / file.path for file in manifest.files}
        listed |= {root / file.path for run in manifest.runs for file in run.rejects}
    return listed


def _changed_at(path: Path) -> float:
    """Seconds since the epoch; a file that a run has just renamed or dropped is young."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
