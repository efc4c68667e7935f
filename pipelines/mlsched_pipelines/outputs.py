"""What a task of the last stage writes: shards by partition, and the rows that were set aside."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mlsched.errors import PipelineError
from mlsched_pipelines.manifests import FileRecord
from mlsched_pipelines.rows import REJECTS_SCHEMA, RowLedger
from mlsched_pipelines.steps import Write
from mlsched_pipelines.stores import Store
from mlsched_pipelines.stores.shards import ShardWriter


def stage_rejects(store: Store, folder: str, task_id: str, ledger: RowLedger) -> FileRecord | None:
    """A shard of the rows that a task set aside; None where it kept all."""
    if not ledger.rejects:
        return None
    stem = f"{task_id}-rejects"
    writer = ShardWriter(store, folder, stem, REJECTS_SCHEMA, batch_bytes=1 << 20)
    try:
        for batch in ledger.rejects_table().to_batches():
            writer.write(batch)
        return writer.close()
    finally:
        writer.abandon()


class Output:
    """The open shards of a task: one for each value of the partition column, in order of rows."""

    def __init__(self, store: Store, folder: str, task_id: str, target: Write) -> None:
        self._store, self._folder, self._task_id = store, folder, task_id
        self._column = target.partition_by
        self._batch_bytes = target.batch_bytes
        self._shard_bytes_max = target.shard_bytes_max
        self._open: dict[str, ShardWriter] = {}
        self._closed: list[tuple[int, FileRecord]] = []
        self._numbers: dict[str, int] = {}
        self._made = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows to the shards that they belong to."""
        if not self._column:
            self._append("", batch)
            return
        values = pc.cast(batch.column(self._column), pa.string())
        for value in pc.unique(values).to_pylist():
            if value is None:
                raise PipelineError(
                    f"The partition column {self._column!r} must have no null, found one."
                )
            self._append(value, batch.filter(pc.equal(values, value)))

    def _append(self, value: str, batch: pa.RecordBatch) -> None:
        writer = self._open.get(value)
        if writer is None:
            partition = {self._column: value} if self._column else {}
            stem = f"{self._task_id}-{self._made:04d}"
            writer = ShardWriter(
                self._store,
                self._folder,
                stem,
                batch.schema,
                batch_bytes=self._batch_bytes,
                partition=partition,
            )
            self._open[value] = writer
            self._numbers[value] = self._made
            self._made += 1
        writer.write(batch)
        if writer.size_bytes > self._shard_bytes_max:
            self._close_one(value)

    def _close_one(self, value: str) -> None:
        record = self._open[value].close()
        self._closed.append((self._numbers[value], record))
        del self._open[value]

    def close(self) -> tuple[FileRecord, ...]:
        """Finish all shards; their records in the order in which they were begun."""
        for value in list(self._open):
            self._close_one(value)
        return tuple(record for _, record in sorted(self._closed, key=lambda pair: pair[0]))

    def abandon(self) -> None:
        """Remove what is not finished."""
        for writer in self._open.values():
            writer.abandon()
