"""Reading a dataset: one manifest version, resolved once, whatever is committed meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
from msgspec import Struct

from mlsched.errors import NotFoundError, PipelineError
from mlsched_pipelines.frames import import_pandas
from mlsched_pipelines.manifests import FileRecord, Manifest, RunRecord, encode, encode_schema
from mlsched_pipelines.rows import REJECTS_SCHEMA
from mlsched_pipelines.schema import unknown_field
from mlsched_pipelines.stores import Store, open_store
from mlsched_pipelines.stores.commits import manifest_path, read_manifest
from mlsched_pipelines.stores.files import full_disk_explained
from mlsched_pipelines.stores.local import LocalStore
from mlsched_pipelines.stores.shards import check_content, check_size, read_shard

if TYPE_CHECKING:
    import pandas as pd

COPY_BYTES = 8 << 20


class Dataset(Struct, frozen=True):
    """The shards of one version, or some of its partitions; make it with `open_dataset`."""

    store: Store
    version: int
    schema: pa.Schema
    files: tuple[FileRecord, ...]
    runs: tuple[RunRecord, ...]

    @property
    def root(self) -> Path:
        """The folder that the shards lie in, for whoever maps them.

        Raises:
            PipelineError: they lie in a bucket.
        """
        if not isinstance(self.store, LocalStore):
            raise PipelineError(
                f"The shards of {self.store.url} are not on this machine.",
                "Bring them here first: dataset.fetch('FOLDER').",
            )
        return self.store.root

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of the shards."""
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """Name of the content: equal for equal shards in equal order."""
        sums = "\n".join(file.checksum for file in self.files)
        return blake2b(sums.encode(), digest_size=16).hexdigest()

    def where(self, **partition: str) -> Dataset:
        """The shards of some partitions, by the column that the dataset was written by.

        Raises:
            SchemaMismatchError: the dataset is not partitioned by that column.
            NotFoundError: no shard has that value.
        """
        kept = self.files
        for column, value in partition.items():
            values = {file.partition[column] for file in self.files if column in file.partition}
            if not values:
                known = sorted({name for file in self.files for name in file.partition})
                raise unknown_field(column, known, f"{self.store.url} is not partitioned by")
            if value not in values:
                raise NotFoundError(
                    f"{self.store.url} has no {column}={value!r}, only {sorted(values)}."
                )
            kept = tuple(file for file in kept if file.partition.get(column) == value)
        return msgspec.structs.replace(self, files=kept)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All record batches in order, over mapped memory."""
        for file in self.files:
            table = read_shard(self.store, file)
            yield from (table if columns is None else table.select(list(columns))).to_batches()

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, over mapped memory; nothing is read before it is touched."""
        schema = (
            self.schema if columns is None else pa.schema([self.schema.field(c) for c in columns])
        )
        return pa.Table.from_batches(self.batches(columns), schema)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows as a DataFrame of pandas; everything is copied into memory.

        Raises:
            ConfigError: pandas is not installed.
        """
        import_pandas()
        frame: pd.DataFrame = self.to_table(columns).to_pandas()
        return frame

    def fetch(self, folder: str | Path) -> Dataset:
        """This version in a folder of this machine, for a feed or for much reading.

        Shards that are there already are not brought again, so that a broken-off copy goes on. The
        folder holds this version alone, and is a dataset like any other.

        Raises:
            PipelineError: a shard does not have its checksum, or the folder holds another dataset.
            StoreFullError: the disk is full.
        """
        return fetch_dataset(self, LocalStore(folder))

    def rejects(self) -> pa.Table:
        """The rows that the runs set aside: file, row (from 1), field, expected, found, raw."""
        tables = [read_shard(self.store, file) for run in self.runs for file in run.rejects]

        return pa.concat_tables(tables) if tables else REJECTS_SCHEMA.empty_table()

    def verify(self) -> None:
        """Read every byte and compare the checksums (about 1 GB/s a core).

        Raises:
            PipelineError: a shard is missing or damaged; the message names it.
        """
        for file in self.files:
            check_content(self.store, file)


def fetch_dataset(dataset: Dataset, target: LocalStore) -> Dataset:
    """Copy the shards of a version, then its manifest: see `Dataset.fetch`."""
    rejects = [file for run in dataset.runs for file in run.rejects]
    schema = encode_schema(dataset.schema)
    content = encode(Manifest(dataset.version, schema, dataset.files, dataset.runs))
    _check_target(target, dataset.version, content)
    with full_disk_explained(target.url):
        for file in (*dataset.files, *rejects):
            if _has(target, file):
                continue
            temporary = target.scratch(file.path.rpartition("/")[0])
            try:
                with dataset.store.open(file.path) as source, temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, COPY_BYTES)
                target.put_file(temporary, file.path)
            finally:
                temporary.unlink(missing_ok=True)
            check_content(target, file)
        target.put_new(manifest_path(dataset.version), content)
    _check_target(target, dataset.version, content)
    return open_dataset(target.root, version=dataset.version)


def _check_target(target: LocalStore, version: int, content: bytes) -> None:
    try:
        found = target.read(manifest_path(version))
    except FileNotFoundError:
        return
    if found != content:
        raise PipelineError(
            f"{target.url} holds version {version} of another dataset, or other partitions of it.",
            "Fetch into a folder of its own.",
        )


def _has(store: Store, file: FileRecord) -> bool:
    try:
        check_content(store, file)
    except PipelineError:
        return False
    return True


def open_dataset(path: str | Path, *, version: int | None = None) -> Dataset:
    """Open a version of a dataset, the newest by default; checks that every shard has its size.

    Raises:
        NotFoundError: nothing was published there, or not that version.
        PipelineError: the manifest or a shard is damaged.
    """
    store = open_store(path)
    manifest = read_manifest(store, version)
    for file in manifest.files:
        check_size(store, file)
    return Dataset(store, manifest.version, manifest.schema, manifest.files, manifest.runs)
