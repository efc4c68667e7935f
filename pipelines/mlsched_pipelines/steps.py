"""The steps of a plan as values: what is done to rows, and what each step promises.

Narrow steps look at one block of rows at a time. Wide steps (a sort, a group-by, a hash join) need
rows of other blocks, so that rows change tasks before them: see `mlsched_pipelines.stages`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc
from msgspec import Struct

from mlsched_pipelines.expressions import expression_bytes
from mlsched_pipelines.schema import Contract

if TYPE_CHECKING:
    from mlsched_pipelines.plans import Plan

BatchFunction = Callable[[Any], Any]
"""A batch in, a batch out; a table or a mapping of column to array will do as well."""

Order = Literal["ascending", "descending"]
How = Literal["inner", "left", "semi", "anti"]
Format = Literal["arrow", "pandas"]


class Project(Struct, frozen=True):
    """New columns by name, each an expression over the columns before."""

    columns: tuple[tuple[str, pc.Expression], ...]

    def identity(self) -> bytes:
        """Bytes that are equal for equal projections."""
        parts = [(name, expression_bytes(each)) for name, each in self.columns]
        return b"project" + repr(parts).encode()

    def __str__(self) -> str:
        return f"project {', '.join(name for name, _ in self.columns)}"


class Filter(Struct, frozen=True):
    """Rows for which a condition is true; false and null are counted as filtered."""

    condition: pc.Expression

    def identity(self) -> bytes:
        """Bytes that are equal for equal filters."""
        return b"filter" + expression_bytes(self.condition)

    def __str__(self) -> str:
        return f"filter {self.condition}"


class MapBatches(Struct, frozen=True):
    """A user's function over record batches, and what its output promises."""

    function: BatchFunction
    contract: Contract
    changes_rows: bool
    name: str
    """`fingerprint` of the function, or the identity that the user gave it."""
    format: Format = "arrow"

    def identity(self) -> bytes:
        """Bytes that are equal for equal maps."""
        parts = (b"map", self.name, self.changes_rows, self.format)
        return repr(parts).encode() + self.contract.identity()

    def __str__(self) -> str:
        return f"map_batches {getattr(self.function, '__name__', self.name)}"


class Sort(Struct, frozen=True):
    """All rows in one order; equal rows keep the order of the input."""

    keys: tuple[tuple[str, Order], ...]
    partitions: int
    """Tasks that share the rows, a range of the order each."""

    def identity(self) -> bytes:
        """Bytes that are equal for equal sorts."""
        return repr((b"sort", self.keys, self.partitions)).encode()

    def __str__(self) -> str:
        return f"sort by {', '.join(f'{name} {order}' for name, order in self.keys)}"


class Aggregate(Struct, frozen=True):
    """One output column of a group-by; ``field`` is empty where rows are counted."""

    name: str
    field: str
    function: str

    def __str__(self) -> str:
        return f"{self.name} = {self.function}({self.field or '*'})"


class GroupBy(Struct, frozen=True):
    """One row for each combination of keys, sorted by them within each partition."""

    keys: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    partitions: int
    """Tasks that share the groups by the hash of their keys."""

    def identity(self) -> bytes:
        """Bytes that are equal for equal group-bys."""
        columns = [(each.name, each.field, each.function) for each in self.aggregates]
        return repr((b"group_by", self.keys, columns, self.partitions)).encode()

    def __str__(self) -> str:
        columns = ", ".join(str(each) for each in self.aggregates)
        return f"group by {', '.join(self.keys) or 'nothing'}: {columns or 'distinct'}"


class Join(Struct, frozen=True):
    """Rows beside the rows of another plan with equal keys; null keys are equal to none.

    A row keeps its place; the rows that it matches follow each other in the order of the other
    plan. With ``partitions`` 0 every task reads all rows of the other plan (a broadcast join), else
    the rows of both are spread over so many tasks by the hash of their keys.
    """

    keys: tuple[tuple[str, str], ...]
    """Names in this plan and in the other."""
    how: How
    columns: tuple[tuple[str, str], ...]
    """Columns of the other plan that are added, and their names in the output."""
    partitions: int

    @property
    def is_broadcast(self) -> bool:
        """Whether every task reads all rows of the other plan."""
        return self.partitions == 0

    @property
    def left_keys(self) -> tuple[str, ...]:
        """Keys of this plan."""
        return tuple(mine for mine, _ in self.keys)

    @property
    def right_keys(self) -> tuple[str, ...]:
        """Keys of the other plan."""
        return tuple(theirs for _, theirs in self.keys)

    def __str__(self) -> str:
        kind = "broadcast" if self.is_broadcast else "hash"
        keys = ", ".join(a if a == b else f"{a} = {b}" for a, b in self.keys)
        return f"{kind} join ({self.how}) on {keys}"


class JoinPlan(Struct, frozen=True):
    """A join as a step of a plan: with the plan whose rows are joined."""

    join: Join
    right: Plan

    def identity(self) -> bytes:
        """Bytes that are equal for equal joins."""
        join = self.join
        parts = (b"join", join.keys, join.how, join.columns, join.partitions)
        return repr(parts).encode() + self.right.identity()

    def __str__(self) -> str:
        return str(self.join)


class Write(Struct, frozen=True):
    """Where the output becomes visible, and how it is laid out."""

    dataset: str
    """Address of its store."""
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


Step = Project | Filter | MapBatches | Sort | GroupBy | JoinPlan
Narrow = Project | Filter | MapBatches | Join
"""What is done to one block of rows at a time; a `Join` here is a broadcast join."""
Wide = Sort | GroupBy | Join
"""What a stage begins with; a `Join` here is a hash join."""
