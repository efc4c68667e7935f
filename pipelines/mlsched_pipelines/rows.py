"""What became of each input row of one task: counted once, and bad rows kept with their reason.

A `Block` carries record batches together with the source row of each row, so that a rule that is
broken late still names the row of the input file. The law, checked before every commit, is
``rows_in + made == rows_out + rejected + filtered + combined``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Struct

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.schema import Contract, Violation, find_violations, mismatch, shorten

Rows = npt.NDArray[np.int64]

NO_ROW = -1
"""The source row of a row that a map made: it has none."""

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("expected", pa.string(), nullable=False),
        pa.field("found", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
    ]
)


class Block(Struct, frozen=True):
    """A record batch and, for each row, its row within the split (counted from 0)."""

    batch: pa.RecordBatch
    rows: Rows


class Counts(Struct, frozen=True):
    """What became of the rows of a task or a run."""

    rows_in: int = 0
    rows_out: int = 0
    filtered: int = 0
    rejected: int = 0
    made: int = 0
    """Rows that maps and joins added to those they were given."""
    combined: int = 0
    """Rows that went into others: of groups all but one, and the other side of a join."""

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Counts(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def check(self, what: str) -> None:
        """No row was lost or counted twice.

        Raises:
            PipelineError: the sums differ; nothing may be published.
        """
        ends = self.rows_out + self.rejected + self.filtered + self.combined
        if self.rows_in + self.made != ends:
            raise PipelineError(
                f"{what}: {self.rows_in} rows came in and {self.made} were made, but "
                f"{self.rows_out} went out, {self.rejected} were rejected, {self.filtered} "
                f"filtered and {self.combined} combined."
            )


class RowLedger:
    """The mutable account of one task; made by the task, written by source and kernels.

    Args:
        file: The input file, for messages.
        first_row: Gives the number of rows before the split; called only when a row must be named.
        rejects_max: Bad rows that may be set aside; 0 makes the first one an error.
    """

    def __init__(self, file: str, first_row: Callable[[], int], rejects_max: int) -> None:
        self.file = file
        self.rows_in = self.rows_out = self.filtered = self.made = self.combined = 0
        self.rejects: list[tuple[str, int, str, str, str, str]] = []
        self._first_row = first_row
        self._first: int | None = None
        self._rejects_max = rejects_max

    def counts(self) -> Counts:
        """The account as a value."""
        rejected = len(self.rejects)
        return Counts(
            self.rows_in, self.rows_out, self.filtered, rejected, self.made, self.combined
        )

    def change_rows(self, before: int, after: int) -> None:
        """Rows of a block became others: those that are more were made, those that are not gone."""
        self.made += max(0, after - before)
        self.filtered += max(0, before - after)

    def change_rows_of(self, before: int, taken: Rows) -> None:
        """Rows of a join: ``taken`` names for each output row the input row that it comes from.

        Rows that are named by none were filtered; a row that is named more than once was made.
        """
        kept = len(np.unique(taken))
        self.filtered += before - kept
        self.made += len(taken) - kept

    def rejects_table(self) -> pa.Table:
        """The rows set aside, oldest first."""
        columns = list(zip(*self.rejects, strict=True)) or [()] * len(REJECTS_SCHEMA)
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, REJECTS_SCHEMA, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=REJECTS_SCHEMA)

    def source_row(self, row: int) -> int:
        """A row within the split as a row of its file, counted from 1; 0 when a map made it."""
        if row == NO_ROW:
            return 0
        if self._first is None:
            self._first = self._first_row()
        return self._first + row + 1

    def reject(self, row: int, field: str, expected: str, found: str, raw: str) -> None:
        """Set one bad row aside.

        Raises:
            SchemaMismatchError: no row may be set aside.
            PipelineError: more than may be.
        """
        number = self.source_row(row)
        if self._rejects_max == 0:
            raise mismatch(field, expected, found, self.file, number or None)
        self.rejects.append((self.file, number, field, expected, shorten(found), raw))
        if len(self.rejects) > self._rejects_max:
            raise too_many_rejects(len(self.rejects), self._rejects_max, self.rejects[0])

    def keep_promises(self, contract: Contract, block: Block) -> Block:
        """The rows of a block that keep the contract; the others are rejected, each once."""
        violations = find_violations(contract, block.batch)
        if not violations:
            return block
        bad = np.zeros(len(block.rows), np.bool_)
        for violation in violations:
            self._reject_rows(violation, block, violation.broken & ~bad)
            bad |= violation.broken
        return Block(block.batch.filter(pa.array(~bad)), block.rows[~bad])

    def _reject_rows(
        self, violation: Violation, block: Block, broken: npt.NDArray[np.bool_]
    ) -> None:
        column = block.batch.column(violation.field)
        for at in np.flatnonzero(broken).tolist():
            found = repr(column[at].as_py())
            raw = shorten(repr(block.batch.slice(at, 1).to_pylist()[0]), 4000)
            self.reject(int(block.rows[at]), violation.field, violation.expected, found, raw)


def too_many_rejects(
    found: int, allowed: int, first: tuple[str, int, str, str, str, str]
) -> SchemaMismatchError:
    """The error for a run whose bad rows are over its budget."""
    file, row, field, expected, value, _ = first
    return SchemaMismatchError(
        f"{found} rows break their contract and {allowed} may be set aside. The first: {file}, row "
        f"{row}: field {field!r}: expected {expected}, found {value}.",
        "Correct the data, or raise rejects_max if so many bad rows are acceptable.",
    )
