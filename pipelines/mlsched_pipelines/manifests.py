"""The records of what was written: files, runs and the manifest that makes them a dataset.

Values only, and their JSON. A manifest lists every file of one version of a dataset; a file that no
manifest lists does not exist for a reader.
"""

from __future__ import annotations

import base64
from hashlib import blake2b

import msgspec
import pyarrow as pa
import pyarrow.ipc
from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched_pipelines.rows import Counts

FORMAT = 1

Plain = bool | int | float | str | None


class ColumnStats(Struct, frozen=True):
    """What one column of one file holds; min and max are None for types that JSON cannot hold."""

    min: Plain = None
    max: Plain = None
    nulls: int = 0


class FileRecord(Struct, frozen=True):
    """One shard: where it is, how large, and what proves that it is whole."""

    path: str
    """Relative to the dataset's directory."""
    size_bytes: int
    rows: int
    batch_rows: int
    """Rows of every record batch but the last."""
    checksum: str
    """BLAKE2b of the whole file, 32 bytes, in hexadecimal."""
    partition: dict[str, str] = {}
    columns: dict[str, ColumnStats] = {}


class Part(Struct, frozen=True):
    """The rows of one partition in an exchange file: record batches ``start`` to ``stop``."""

    start: int
    stop: int
    rows: int
    size_bytes: int


class ExchangeFile(Struct, frozen=True):
    """Rows that a task hands on to the tasks of the next stage; gone once the run is published."""

    path: str
    """Relative to the dataset's directory."""
    size_bytes: int
    parts: tuple[Part, ...]
    """One for each partition; of rows that are sorted one for each batch."""
    index: bytes = b""
    """Of rows that are sorted: see `mlsched_pipelines.sorts`."""


class TaskRecord(Struct, frozen=True):
    """What one finished task left: the content of its ``.done`` marker."""

    task_id: str
    files: tuple[FileRecord, ...]
    counts: Counts
    rejects: FileRecord | None = None
    exchange: ExchangeFile | None = None


class RunKey(Struct, frozen=True, order=True):
    """Which run a run is: the same key is the same run, and is never published twice."""

    pipeline: str
    interval: str
    plan_hash: str

    @property
    def run_id(self) -> str:
        """The key as a folder name."""
        text = "\0".join((self.pipeline, self.interval, self.plan_hash))
        return blake2b(text.encode(), digest_size=16).hexdigest()


class RunRecord(Struct, frozen=True):
    """One published run."""

    key: RunKey
    run_id: str
    counts: Counts
    rejects: tuple[FileRecord, ...] = ()
    committed_at: str = ""
    """RFC 3339, UTC."""


class Manifest(Struct, frozen=True):
    """One version of a dataset."""

    version: int
    arrow_schema: str
    """Arrow IPC schema message, base64."""
    files: tuple[FileRecord, ...]
    runs: tuple[RunRecord, ...]
    format: int = FORMAT

    def find_run(self, key: RunKey) -> RunRecord | None:
        """The run of a key, if it is part of this version."""
        return next((run for run in self.runs if run.key == key), None)

    @property
    def schema(self) -> pa.Schema:
        """The schema that all files share."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.arrow_schema)))

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text for a manifest."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def next_manifest(
    last: Manifest | None, run: RunRecord, files: tuple[FileRecord, ...], schema: str
) -> Manifest:
    """The version that has a run's files in place of those of an earlier run of its interval."""
    if last is None:
        return Manifest(1, schema, files, (run,))
    same = (run.key.pipeline, run.key.interval)
    replaced = {old.run_id for old in last.runs if (old.key.pipeline, old.key.interval) == same}
    kept_runs = tuple(old for old in last.runs if old.run_id not in replaced)
    kept = tuple(file for file in last.files if run_of(file) not in replaced)
    if kept and last.arrow_schema != schema:
        raise PipelineError(
            "The dataset holds other intervals with another schema: "
            f"expected {last.schema.to_string()!r}.",
            "Write to a new dataset, or run all intervals again there.",
        )
    return Manifest(last.version + 1, schema, kept + files, (*kept_runs, run))


def run_of(file: FileRecord) -> str:
    """The run folder that a file lies in."""
    return file.path.split("/")[1]


def encode(record: Manifest | TaskRecord) -> bytes:
    """A record as JSON with sorted keys: equal records give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1)


def decode_manifest(data: bytes, what: str) -> Manifest:
    """A manifest from JSON.

    Raises:
        PipelineError: it is damaged, or of a newer format.
    """
    try:
        manifest = _decode_manifest(data)
    except msgspec.DecodeError as error:
        raise PipelineError(f"The manifest {what} is damaged: {error}.") from error
    if manifest.format > FORMAT:
        raise PipelineError(
            f"The manifest {what} has format {manifest.format}, this program reads up to {FORMAT}.",
            "Use a newer mlsched.",
        )
    return manifest


def decode_task(data: bytes, what: str) -> TaskRecord:
    """A task's marker from JSON.

    Raises:
        PipelineError: it is damaged.
    """
    try:
        return _decode_task(data)
    except msgspec.DecodeError as error:
        raise PipelineError(
            f"The marker {what} is damaged: {error}.", "Remove it and run again."
        ) from error


_decode_manifest = msgspec.json.Decoder(Manifest).decode
_decode_task = msgspec.json.Decoder(TaskRecord).decode
