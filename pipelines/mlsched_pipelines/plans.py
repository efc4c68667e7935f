"""Plans: what is to be computed, as a frozen value; nothing runs before `mlsched_pipelines.run`.

    Plan.scan(csv("trips.csv", schema))
        .filter(pc.field("km") > 0)
        .project({"km": pc.field("km"), "pace": pc.field("minutes") / pc.field("km")})
        .map_batches(normalise, schema=out)
        .sort([("pace", "ascending")])
        .write("trips-clean")

Each step checks what it can at once: unknown fields, types of expressions, headers and footers.
The splits are cut by ``scan`` and stay as they are, so the tasks do not depend on who runs them.
Kernels are Arrow's compute functions only, hence every engine gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.expressions import evaluate, expression_bytes
from mlsched_pipelines.fingerprints import fingerprint
from mlsched_pipelines.schema import Contract, as_contract, unknown_field
from mlsched_pipelines.sources import Source
from mlsched_pipelines.splits import Split

BatchFunction = Callable[[pa.RecordBatch], pa.RecordBatch | pa.Table | Mapping[str, Any]]
"""A batch in, a batch out; a table or a mapping of column to array will do as well."""

Order = Literal["ascending", "descending"]

SORT_MEMORY_MAX_BYTES = 2 << 30
BATCH_BYTES = 8 << 20
SHARD_BYTES_MAX = 256 << 20


class Project(Struct, frozen=True):
    """New columns by name, each an expression over the columns before."""

    columns: tuple[tuple[str, pc.Expression], ...]

    def identity(self) -> bytes:
        """Bytes that are equal for equal projections."""
        parts = [(name, expression_bytes(each)) for name, each in self.columns]
        return b"project" + repr(parts).encode()


class Filter(Struct, frozen=True):
    """Rows for which a condition is true; false and null are counted as filtered."""

    condition: pc.Expression

    def identity(self) -> bytes:
        """Bytes that are equal for equal filters."""
        return b"filter" + expression_bytes(self.condition)


class MapBatches(Struct, frozen=True):
    """A user's function over record batches, and what its output promises."""

    function: BatchFunction
    contract: Contract
    changes_rows: bool
    name: str
    """`fingerprint` of the function, or the identity that the user gave it."""

    def identity(self) -> bytes:
        """Bytes that are equal for equal maps."""
        return repr((b"map", self.name, self.changes_rows)).encode() + self.contract.identity()


class Sort(Struct, frozen=True):
    """All rows in one order, as one final task; equal rows keep the order of the input."""

    keys: tuple[tuple[str, Order], ...]
    memory_max_bytes: int

    def identity(self) -> bytes:
        """Bytes that are equal for equal sorts."""
        return b"sort" + repr(self.keys).encode()


class Write(Struct, frozen=True):
    """Where the output becomes visible, and how it is laid out."""

    dataset: str
    contract: Contract
    partition_by: str
    rejects_max: int
    batch_bytes: int
    shard_bytes_max: int

    def identity(self) -> bytes:
        """Bytes that are equal for equal layouts; where they lie does not count."""
        layout = (
            b"write",
            self.partition_by,
            self.rejects_max,
            self.batch_bytes,
            self.shard_bytes_max,
        )
        return repr(layout).encode() + self.contract.identity()


Step = Project | Filter | MapBatches | Sort


class Plan(Struct, frozen=True):
    """A source, its splits, steps and at the end a write; every method gives a new plan."""

    source: Source
    splits: tuple[Split, ...]
    schema: pa.Schema
    """Of the rows after the last step."""
    steps: tuple[Step, ...] = ()
    target: Write | None = None

    @classmethod
    def scan(cls, source: Source) -> Plan:
        """Read a source; its input is pinned and cut into splits now.

        Raises:
            NotFoundError: an input file is not there.
            SchemaMismatchError: a header or footer does not keep the source's contract.
        """
        return cls(source, source.splits(), source.contract.schema)

    def project(self, columns: Sequence[str] | Mapping[str, pc.Expression]) -> Plan:
        """Keep the named columns, or make columns from expressions (``pc.field("a") * 2``)."""
        if not isinstance(columns, Mapping):
            columns = {name: pc.field(name) for name in columns}
        step = Project(tuple(columns.items()))
        return self._with(step, self._evaluated(step.columns))

    def filter(self, condition: pc.Expression) -> Plan:
        """Keep the rows for which the condition is true."""
        found = self._evaluated((("condition", condition),)).field(0).type
        if found != pa.bool_():
            raise SchemaMismatchError(
                f"filter: expected a condition (bool), found {found}: {condition}."
            )
        return self._with(Filter(condition), self.schema)

    def map_batches(
        self,
        function: BatchFunction,
        *,
        schema: pa.Schema | Contract,
        changes_rows: bool = False,
        identity: str = "",
    ) -> Plan:
        """Pass every batch through a function of yours.

        Args:
            function: Called once a batch, in the worker; it must depend on its batch alone, since
                batches run in any order and again after a crash.
            schema: What it returns; checked on every batch.
            changes_rows: It may return another number of rows; else that is an error.
            identity: Name of what it does, instead of the fingerprint of its code.
        """
        contract = as_contract(schema)
        name = identity or fingerprint(function)
        return self._with(MapBatches(function, contract, changes_rows, name), contract.schema)

    def sort(
        self,
        keys: Sequence[str | tuple[str, Order]],
        *,
        memory_max_bytes: int = SORT_MEMORY_MAX_BYTES,
    ) -> Plan:
        """Sort the whole output; nulls and NaN come last.

        One task holds all rows that reach the sort, about three times: the rows, an index of 8
        bytes a row and the sorted copy. It refuses to start beyond ``memory_max_bytes``.
        """
        pairs: tuple[tuple[str, Order], ...] = tuple(
            (key, "ascending") if isinstance(key, str) else key for key in keys
        )
        if not pairs or any(order not in {"ascending", "descending"} for _, order in pairs):
            raise PipelineError(
                f"sort: expected (field, 'ascending' | 'descending') pairs, found {keys!r}."
            )
        for name, _ in pairs:
            if name not in self.schema.names:
                raise unknown_field(name, self.schema.names, "sort asks for")
        if any(isinstance(step, Sort) for step in self.steps):
            raise PipelineError(
                "A plan sorts once, found a second sort.", "Sort by all the keys at once."
            )
        return self._with(Sort(pairs, memory_max_bytes), self.schema)

    def write(
        self,
        dataset: str | Path,
        *,
        schema: pa.Schema | Contract | None = None,
        partition_by: str = "",
        rejects_max: int = 0,
        batch_bytes: int = BATCH_BYTES,
        shard_bytes_max: int = SHARD_BYTES_MAX,
    ) -> Plan:
        """Publish the rows as a version of a dataset.

        Args:
            dataset: Directory of the dataset; made when it is not there.
            schema: What the output promises beside its types: checks and a band of row counts.
            partition_by: A column whose values get shards of their own, so that readers can take
                some (``dataset.where(part="train")``).
            rejects_max: Rows that may break a contract; they are set aside with the reason.
            batch_bytes: Aim for a record batch; kept to 256..4096 rows.
            shard_bytes_max: A shard file is closed when it is larger.
        """
        contract = as_contract(schema if schema is not None else self.schema)
        promised, given = ([(f.name, f.type) for f in s] for s in (contract.schema, self.schema))
        if promised != given:
            raise SchemaMismatchError(
                f"write: expected {contract.schema}, the plan gives {self.schema}."
            )
        if partition_by and partition_by not in self.schema.names:
            raise unknown_field(partition_by, self.schema.names, "partition_by asks for")
        for field in self.schema:
            if pa.types.is_dictionary(field.type):
                raise SchemaMismatchError(
                    f"write: field {field.name!r} is {field.type}; shards hold plain values.",
                    f"Cast it before: pc.field({field.name!r}).cast({field.type.value_type}).",
                )
        folder = str(Path(dataset).absolute())
        target = Write(folder, contract, partition_by, rejects_max, batch_bytes, shard_bytes_max)
        return msgspec.structs.replace(self, target=target)

    @property
    def plan_hash(self) -> str:
        """Name of the computation: source options, splits, steps, functions, schemas and layout."""
        digest = blake2b(digest_size=16)
        for part in (self.source.identity(), *(step.identity() for step in self.steps)):
            digest.update(len(part).to_bytes(8, "little") + part)
        for split in self.splits:
            digest.update(split.identity().encode() + b"\n")
        digest.update(self.writes().identity())
        return digest.hexdigest()

    def writes(self) -> Write:
        """The write at the end.

        Raises:
            PipelineError: the plan has none.
        """
        if self.target is None:
            raise PipelineError(
                "The plan writes nothing, so there is nothing to run.", "End it with write(...)."
            )
        return self.target

    def task_id(self, split: Split | None) -> str:
        """Name of the task of one split, or of the sort (None), and of its output files."""
        what = split.identity() if split is not None else "sort"
        return blake2b(f"{self.plan_hash}/{what}".encode(), digest_size=16).hexdigest()

    def before_sort(self) -> tuple[Step, ...]:
        """The steps that run on each split."""
        return self.steps[: self._sort_at()]

    def after_sort(self) -> tuple[Step, ...]:
        """The steps of the final task, the sort first; empty when nothing is sorted."""
        return self.steps[self._sort_at() :]

    def _sort_at(self) -> int:
        places = [at for at, step in enumerate(self.steps) if isinstance(step, Sort)]
        return places[0] if places else len(self.steps)

    def _with(self, step: Step, schema: pa.Schema) -> Plan:
        if self.target is not None:
            raise PipelineError("write is the last step of a plan, found another step after it.")
        return msgspec.structs.replace(self, steps=(*self.steps, step), schema=schema)

    def _evaluated(self, columns: tuple[tuple[str, pc.Expression], ...]) -> pa.Schema:
        empty = pa.RecordBatch.from_pylist([], schema=self.schema)
        return evaluate(empty, columns).schema
