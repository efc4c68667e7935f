"""Plans: what is to be computed, as a frozen value; nothing runs before `mlsched_pipelines.run`.

    Plan.scan(csv("trips.csv", schema))
        .filter(pc.field("km") > 0)
        .join(Plan.scan(parquet("zones.parquet")), on="zone")
        .map_batches(normalise, schema=out)
        .group_by("district", {"trips": "count", "km": ("km", "mean")})
        .write("trips-by-district")

Each step checks what it can at once: unknown fields, types of expressions, headers and footers.
The splits are cut by ``scan`` and stay as they are, so the tasks do not depend on who runs them.
Kernels are Arrow's compute functions only, hence every engine gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.aggregates import AggregateLike, check_group_by, read_aggregates
from mlsched_pipelines.expressions import evaluate
from mlsched_pipelines.fingerprints import fingerprint
from mlsched_pipelines.joins import Keys, added_columns, check_join, joined_schema, read_keys
from mlsched_pipelines.partitions import PARTITIONS_MAX
from mlsched_pipelines.schema import (
    Contract,
    as_contract,
    as_names,
    expect,
    shorten,
    unknown_field,
)
from mlsched_pipelines.sorts import check_sortable
from mlsched_pipelines.sources import Source
from mlsched_pipelines.splits import Pruned, Split
from mlsched_pipelines.steps import (
    BatchFunction,
    Filter,
    Format,
    GroupBy,
    How,
    Join,
    JoinPlan,
    MapBatches,
    Order,
    Project,
    Sort,
    Step,
    Write,
)
from mlsched_pipelines.stores import open_store

KERNELS_VERSION = 2
"""Part of each plan's name; to be raised with every change that gives other rows for a plan."""

BATCH_BYTES = 8 << 20
SHARD_BYTES_MAX = 256 << 20

PARTITION_BYTES = 32 << 20
"""Input of one task of a sort, group-by or hash join, where nobody says how many there are."""

BROADCAST_BYTES_MAX = 32 << 20
"""Input up to which the other side of a join is given to every task, where nobody says so."""


class Plan(Struct, frozen=True):
    """A source, its splits, steps and at the end a write; every method gives a new plan."""

    source: Source
    splits: tuple[Split, ...]
    schema: pa.Schema
    """Of the rows after the last step."""
    steps: tuple[Step, ...] = ()
    schemas: tuple[pa.Schema, ...] = ()
    """Of the rows before each step."""
    pruned: Pruned = Pruned()
    target: Write | None = None

    @classmethod
    def scan(cls, source: Source) -> Plan:
        """Read a source; its input is pinned and cut into splits now.

        Raises:
            NotFoundError: an input file is not there.
            SchemaMismatchError: a header or footer does not keep the source's contract.
        """
        expect(source, Source, "scan", "a source: table(data), csv(...), parquet(...), arrow(...)")
        return cls(source, source.splits(), source.contract.schema)

    def project(self, columns: Sequence[str] | Mapping[str, pc.Expression]) -> Plan:
        """Keep the named columns, or make columns from expressions (``pc.field("a") * 2``)."""
        if isinstance(columns, str):
            raise PipelineError(
                f"project: expected several columns, found the text {columns!r}.",
                f"Write project([{columns!r}]).",
            )
        if not isinstance(columns, Mapping):
            columns = {name: pc.field(name) for name in as_names(columns, "project")}
        step = Project(tuple(columns.items()))
        return self._with(step, self._evaluated(step.columns))

    def filter(self, condition: pc.Expression) -> Plan:
        """Keep the rows for which the condition is true.

        Right after the scan of Parquet files, row groups in which no row can pass by their
        statistics are not read; their rows count as filtered.
        """
        found = self._evaluated((("the condition", condition),)).field(0).type
        if found != pa.bool_():
            raise SchemaMismatchError(
                f"filter: expected a condition (bool), found {found}: {condition}."
            )
        made = self._with(Filter(condition), self.schema)
        if all(isinstance(step, Filter) for step in self.steps):
            splits, pruned = self.source.prune(self.splits, condition)
            made = msgspec.structs.replace(made, splits=splits, pruned=self.pruned + pruned)
        return made

    def map_batches(
        self,
        function: BatchFunction,
        *,
        schema: pa.Schema | Contract,
        changes_rows: bool = False,
        identity: str = "",
        format: Format = "arrow",  # noqa: A002 - the field's word
    ) -> Plan:
        """Pass every batch through a function of yours.

        Args:
            function: Called once a batch, in the worker; it must depend on its batch alone, since
                batches run in any order and again after a crash.
            schema: What it returns; checked on every batch.
            changes_rows: It may return another number of rows; else that is an error.
            identity: Name of what it does, instead of the fingerprint of its code.
            format: What it takes: ``arrow`` record batches, or ``pandas`` frames. It may return
                either, or a mapping of columns.
        """
        if format not in {"arrow", "pandas"}:
            raise PipelineError(f"map_batches: expected format arrow or pandas, found {format!r}.")
        if not callable(function):
            raise PipelineError(f"map_batches: expected a function, found {shorten(function)}.")
        contract = as_contract(schema)
        name = identity or fingerprint(function)
        step = MapBatches(function, contract, changes_rows, name, format)
        return self._with(step, contract.schema)

    def join(
        self,
        right: Plan,
        on: Keys,
        *,
        how: How = "inner",
        broadcast: bool | None = None,
        partitions: int | None = None,
        suffix: str = "",
    ) -> Plan:
        """Add columns of another plan's rows where keys are equal; null is equal to nothing.

        Rows keep their order; the matches of one row come in the order of the other plan.

        Args:
            right: A plan that is not written.
            on: A key, several, or a mapping of names in this plan to names in the other.
            how: ``inner``; ``left`` keeps rows without a match, with nulls; ``semi`` and ``anti``
                keep the rows that have, or have not, a match, and add no columns.
            broadcast: Give all of ``right`` to every task: for a small side. By default where its
                input is at most 32 MiB. Else both sides are spread by the hash of their keys.
            partitions: Tasks of a hash join; by default one for each 32 MiB of input.
            suffix: Added to the names of columns of ``right`` that this plan has too.

        Raises:
            SchemaMismatchError: a key is missing or of another type, or two columns have one name.
        """
        expect(right, Plan, "join", "the other side as a plan: Plan.scan(table(data))")
        if right.target is not None:
            raise PipelineError("join: the other plan ends with a write; join it before that.")
        keys = read_keys(on)
        check_join(keys, how, self.schema, right.schema)
        columns = added_columns(keys, how, self.schema, right.schema, suffix)
        if broadcast is None:
            broadcast = partitions is None and right.input_bytes <= BROADCAST_BYTES_MAX
        if broadcast and partitions is not None:
            raise PipelineError("join: a broadcast join has no partitions of its own.")
        size = self.input_bytes + right.input_bytes
        count = 0 if broadcast else _partitions(partitions, size, "join")
        step = Join(keys, how, columns, count)
        return self._with(JoinPlan(step, right), joined_schema(self.schema, step, right.schema))

    def group_by(
        self,
        keys: str | Sequence[str],
        aggregates: Mapping[str, AggregateLike] = {},
        *,
        partitions: int | None = None,
    ) -> Plan:
        """One row for each combination of keys, sorted by them within each partition.

        Args:
            keys: Names of columns; none gives one row over all. Nulls are a group like any value.
            aggregates: Output columns: ``"count"`` of the rows, or a field and one of count (its
                values that are not null), sum, mean, min, max, any, all. None: distinct keys.
            partitions: Tasks that share the groups; by default one for each 32 MiB of input.

        Raises:
            SchemaMismatchError: a field is missing, or has no such aggregate.
        """
        names = as_names(keys, "group_by")
        count = _partitions(partitions, self.input_bytes, "group_by") if names else 1
        step = GroupBy(names, read_aggregates(aggregates), count)
        return self._with(step, check_group_by(step, self.schema))

    def sort(
        self,
        keys: str | Sequence[str | tuple[str, Order]],
        *,
        partitions: int | None = None,
    ) -> Plan:
        """Sort the whole output; nulls and NaN come last, equal rows keep their order.

        Args:
            keys: Names of columns, or pairs of a name and ``ascending`` or ``descending``.
            partitions: Tasks that take a range of the order each; by default one for each 32 MiB of
                input. Each holds its rows about three times.

        Raises:
            SchemaMismatchError: a field is missing, or its type has no order.
        """
        pairs = _read_orders(keys)
        for name, _ in pairs:
            if name not in self.schema.names:
                raise unknown_field(name, self.schema.names, "sort asks for")
        # A column that is named once more orders nothing.
        orders: dict[str, Order] = {}
        for name, order in pairs:
            orders.setdefault(name, order)
        check_sortable(self.schema, orders)
        count = _partitions(partitions, self.input_bytes, "sort")
        return self._with(Sort(tuple(orders.items()), count), self.schema)

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
            dataset: Folder of the dataset, made when it is not there, or ``s3://BUCKET/PREFIX``.
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
                f"write: expected the fields {promised}, the last step gives {given}."
            )
        if partition_by and partition_by not in self.schema.names:
            raise unknown_field(partition_by, self.schema.names, "partition_by asks for")
        for field in self.schema:
            if pa.types.is_dictionary(field.type):
                raise SchemaMismatchError(
                    f"write: field {field.name!r} is {field.type}; shards hold plain values.",
                    f"Cast it before: pc.field({field.name!r}).cast({field.type.value_type}).",
                )
        address = _address(dataset)
        target = Write(address, contract, partition_by, rejects_max, batch_bytes, shard_bytes_max)
        return msgspec.structs.replace(self, target=target)

    def to(self, dataset: str | Path) -> Plan:
        """The same plan, written to another dataset."""
        target = msgspec.structs.replace(self.writes(), dataset=_address(dataset))
        return msgspec.structs.replace(self, target=target)

    def identity(self) -> bytes:
        """Bytes that are equal for equal computations, wherever the output goes."""
        digest = blake2b(b"%d" % KERNELS_VERSION, digest_size=16)
        for part in (self.source.identity(), *(step.identity() for step in self.steps)):
            digest.update(len(part).to_bytes(8, "little") + part)
        for split in self.splits:
            digest.update(split.identity().encode() + b"\n")
        return digest.digest()

    @property
    def plan_hash(self) -> str:
        """Name of the computation: source options, splits, steps, functions, schemas and layout."""
        digest = blake2b(self.identity(), digest_size=16)
        digest.update(self.writes().identity())
        return digest.hexdigest()

    @property
    def input_bytes(self) -> int:
        """Input that is read, that of joined plans among it."""
        rights = (step.right for step in self.steps if isinstance(step, JoinPlan))
        own = sum(split.size_bytes for split in self.splits)
        return own + sum(right.input_bytes for right in rights)

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

    def _with(self, step: Step, schema: pa.Schema) -> Plan:
        if self.target is not None:
            raise PipelineError("write is the last step of a plan, found another step after it.")
        steps, schemas = (*self.steps, step), (*self.schemas, self.schema)
        return msgspec.structs.replace(self, steps=steps, schemas=schemas, schema=schema)

    def _evaluated(self, columns: tuple[tuple[str, pc.Expression], ...]) -> pa.Schema:
        for name, each in columns:
            # Arrow takes None and ends the process.
            if not isinstance(each, pc.Expression):
                raise PipelineError(
                    f"{name}: expected an expression, found {type(each).__name__}: "
                    f"{shorten(each)}.",
                    "Write pc.field(NAME) for a column, pc.scalar(VALUE) for a value: "
                    "pc.field('km') > 0.",
                )
        empty = pa.RecordBatch.from_pylist([], schema=self.schema)
        return evaluate(empty, columns).schema


def _address(dataset: str | Path) -> str:
    if not str(dataset):
        raise PipelineError(
            "Expected the path of a dataset to write, found an empty text.",
            "For the working directory itself write '.'.",
        )
    return open_store(dataset).url


def _read_orders(
    keys: str | Sequence[str | tuple[str, Order]],
) -> tuple[tuple[str, Order], ...]:
    """The keys of a sort as users write them."""
    given = [keys] if isinstance(keys, str) or not isinstance(keys, Sequence) else keys
    pairs: tuple[tuple[str, Order], ...] = tuple(
        (key, "ascending") if isinstance(key, str) else key for key in given
    )
    for pair in pairs or (keys,):
        match pair:
            case (str(), "ascending" | "descending"):
                pass
            case _:
                raise PipelineError(
                    "sort: expected (field, 'ascending' | 'descending') pairs, "
                    f"found {shorten(keys)}.",
                    "Write sort('km'), or sort([('km', 'descending'), 'zone']).",
                )
    return pairs


def _partitions(asked: int | None, size_bytes: int, what: str) -> int:
    if asked is None:
        return min(max(1, -(-size_bytes // PARTITION_BYTES)), PARTITIONS_MAX)
    if not isinstance(asked, int) or not 1 <= asked <= PARTITIONS_MAX:
        raise PipelineError(f"{what}: expected 1 to {PARTITIONS_MAX} partitions, found {asked!r}.")
    return asked
