"""The commit: one new manifest, whose name only one writer can create.

    DATASET/manifest/v0000042.json     what readers resolve; never changed once it is there
    DATASET/data/RUN_ID/*.arrow        shards, of use only if a manifest lists them
    DATASET/data/RUN_ID/TASK.done      what a finished task left, so that a restart resumes

A crash leaves nothing but files that no manifest lists; `collect_orphans` removes them by age.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path, PurePosixPath

from mlsched.errors import ConflictError, NotFoundError, PipelineError
from mlsched_pipelines.manifests import (
    FileRecord,
    Manifest,
    RunRecord,
    decode_manifest,
    encode,
    next_manifest,
)
from mlsched_pipelines.stores import Entry, Store, open_store
from mlsched_pipelines.stores.local import LocalStore

TRIES_MAX = 100
ORPHAN_AGE_S_MIN = 7 * 86_400
MANIFESTS = "manifest"
DATA = "data"


def manifest_path(version: int) -> str:
    """The manifest of a version, within the dataset's store."""
    return f"{MANIFESTS}/v{version:07d}.json"


def list_versions(store: Store) -> list[int]:
    """Published versions, oldest first; empty where nothing was published."""
    names = [PurePosixPath(entry.path) for entry in store.list_files(MANIFESTS)]
    return sorted(
        int(name.stem[1:])
        for name in names
        if name.suffix == ".json" and name.stem[0] == "v" and name.stem[1:].isdecimal()
    )


def read_manifest(store: Store, version: int | None = None) -> Manifest:
    """A version's manifest, the newest by default.

    Raises:
        NotFoundError: there is no such version, or none at all.
        PipelineError: the manifest is damaged.
    """
    versions = list_versions(store)
    if not versions:
        raise NotFoundError(
            f"There is no dataset in {store.url}.", "Run a plan that writes it first."
        )
    wanted = versions[-1] if version is None else version
    if wanted not in versions:
        raise NotFoundError(
            f"The dataset {store.url} has versions {versions[0]}..{versions[-1]}, not {wanted}."
        )
    path = manifest_path(wanted)
    return decode_manifest(store.read(path), f"{store.url}/{path}")


def last_manifest(store: Store) -> Manifest | None:
    """The newest manifest, or None before the first commit."""
    versions = list_versions(store)
    return read_manifest(store, versions[-1]) if versions else None


def commit(
    store: Store, run: RunRecord, files: tuple[FileRecord, ...], schema: str
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
    for _ in range(TRIES_MAX):
        last = last_manifest(store)
        if last is not None and last.find_run(run.key) is not None:
            return last, False
        made = next_manifest(last, run, files, schema)
        if store.put_new(manifest_path(made.version), encode(made)):
            return made, True
    raise ConflictError(
        f"The dataset {store.url} was committed to {TRIES_MAX} times while this run tried."
    )


def collect_orphans(
    dataset: str | Path, *, age_s_min: float = ORPHAN_AGE_S_MIN, now: float | None = None
) -> list[str]:
    """Remove files that no manifest lists and nobody changed for ``age_s_min``.

    In a bucket also the parts of uploads that began before that and never ended: they are in no
    list and paid for. The keys must be allowed to list and abort multipart uploads.

    A run that is still at work keeps its folder young with every task; give an age well above the
    longest task. All published versions stay readable.

    Args:
        dataset: The dataset's folder or address.
        age_s_min: Seconds since the last change.
        now: Seconds since the epoch; the clock's by default.

    Returns:
        What was removed, relative to the dataset.
    """
    store = open_store(dataset)
    runs = store.list_folders(DATA)
    if not list_versions(store) and not runs:
        raise PipelineError(
            f"{store.url} is not a dataset: expected a folder manifest or data in it."
        )
    kept = _listed_files(store)
    oldest = (time.time() if now is None else now) - age_s_min
    removed: list[str] = []
    for run in runs:
        found = [*store.list_files(run), *_unfinished(store, run)]
        if all(entry.changed_at <= oldest for entry in found):
            # At once, since a run may be taken up again at any time: see `keep_young`.
            removed += _remove(store, [each.path for each in found if each.path not in kept])
    begun = _unfinished(store, MANIFESTS)
    removed += _remove(store, [each.path for each in begun if each.changed_at <= oldest])
    if not isinstance(store, LocalStore):
        removed += _abort_uploads(store, oldest)
    return removed


def keep_young(store: Store, folder: str) -> None:
    """Let `collect_orphans` see that a run's folder is in use again, however old its files are."""
    store.put_new(f"{folder}/{secrets.token_hex(8)}.try", b"")


def _remove(store: Store, paths: list[str]) -> list[str]:
    # Markers go first, durably: a marker without its files would let a later run skip the task.
    store.delete(path for path in paths if path.endswith(".done"))
    store.delete(path for path in paths if not path.endswith(".done"))
    return paths


def _abort_uploads(store: Store, oldest: float) -> list[str]:
    from mlsched_pipelines.stores.s3 import S3Store

    return store.abort_uploads(DATA, oldest) if isinstance(store, S3Store) else []


def _unfinished(store: Store, folder: str) -> list[Entry]:
    """What a writer of a shared folder left in the middle; elsewhere it leaves nothing."""
    return store.abandoned(folder) if isinstance(store, LocalStore) else []


def _listed_files(store: Store) -> set[str]:
    listed: set[str] = set()
    for version in list_versions(store):
        manifest = read_manifest(store, version)
        listed |= {file.path for file in manifest.files}
        listed |= {file.path for run in manifest.runs for file in run.rejects}
    return listed
