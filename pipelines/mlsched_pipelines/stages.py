"""Stages: a plan cut where rows change tasks. Pure: the same plan gives the same stages and tasks.

A stage is a set of tasks that need nothing of each other. The first stage of a source has a task
for each split. A wide step begins a stage that has a task for each partition of the rows; the stage
before it spreads its rows over them (`Exchange`). Only the last stage has no exchange: its output
is what is published.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import pyarrow as pa
from msgspec import Struct

from mlsched.errors import InvariantError
from mlsched_pipelines.plans import Plan
from mlsched_pipelines.sources import Source
from mlsched_pipelines.splits import Split
from mlsched_pipelines.steps import GroupBy, Join, JoinPlan, Narrow, Order, Sort, Step, Wide


class Exchange(Struct, frozen=True):
    """How the rows of a stage are spread over the tasks of the next."""

    keys: tuple[str, ...]
    """By the hash of which columns; none: all rows go to one task, or to all of them."""
    partitions: int
    partial: GroupBy | None = None
    """Rows are combined before they are handed on."""
    order: tuple[tuple[str, Order], ...] = ()
    """Rows are sorted before they are handed on; partitions are ranges of this order."""


class Stage(Struct, frozen=True):
    """Tasks side by side: what they read, do, and hand on."""

    number: int
    schema: pa.Schema
    """Of the rows after its steps, before any exchange."""
    source: Source | None = None
    splits: tuple[Split, ...] = ()
    pruned_rows: int = 0
    """Rows of the source that no split has any more."""
    head: Wide | None = None
    inputs: tuple[int, ...] = ()
    """Stages whose rows the head reads: one, or the left and the right side of a join."""
    input_schemas: tuple[pa.Schema, ...] = ()
    """Of those rows, before any exchange."""
    partitions: int = 0
    steps: tuple[Narrow, ...] = ()
    broadcasts: tuple[int, ...] = ()
    """For each broadcast join among the steps the stage that makes the other side."""
    exchange: Exchange | None = None

    @property
    def tasks(self) -> int:
        """Number of tasks; task ``n`` reads split or partition ``n``."""
        return len(self.splits) if self.source is not None else self.partitions

    @property
    def name(self) -> str:
        """What the stage begins with."""
        names: dict[type, str] = {Sort: "sort", GroupBy: "group_by", Join: "join"}
        return "scan" if self.head is None else names[type(self.head)]

    def task_id(self, plan_hash: str, number: int) -> str:
        """Name of a task and of its files: equal for the same piece of the same plan."""
        what = self.splits[number].identity() if self.source is not None else str(number)
        text = f"{plan_hash}/{self.number}/{what}"
        return blake2b(text.encode(), digest_size=16).hexdigest()


class _Cut:
    """The stages so far, and the one that is being put together."""

    def __init__(self, stages: list[Stage], plan: Plan) -> None:
        self._stages = stages
        self._open = Stage(-1, plan.schema, plan.source, plan.splits, plan.pruned.rows)
        self._steps: list[Narrow] = []
        self._broadcasts: list[int] = []

    def add(self, step: Step, schema: pa.Schema) -> None:
        """Put one more step where it belongs; ``schema`` is that of the rows before it."""
        match step:
            case JoinPlan():
                self._add_join(step, schema)
            case GroupBy():
                exchange = Exchange(step.keys, step.partitions, step)
                self._begin(step, (self.close(schema, exchange),), step.partitions)
            case Sort():
                order = step.keys if step.partitions > 1 else ()
                exchange = Exchange((), step.partitions, order=order)
                self._begin(step, (self.close(schema, exchange),), step.partitions)
            case _:
                self._steps.append(step)

    def _add_join(self, step: JoinPlan, schema: pa.Schema) -> None:
        join = step.join
        if join.is_broadcast:
            self._broadcasts.append(_cut(self._stages, step.right, Exchange((), 1)))
            self._steps.append(join)
            return
        left = self.close(schema, Exchange(join.left_keys, join.partitions))
        right = _cut(self._stages, step.right, Exchange(join.right_keys, join.partitions))
        self._begin(join, (left, right), join.partitions)

    def close(self, schema: pa.Schema, exchange: Exchange | None) -> int:
        """Finish the open stage; its number."""
        number = len(self._stages)
        stage = msgspec.structs.replace(
            self._open,
            number=number,
            schema=schema,
            steps=tuple(self._steps),
            broadcasts=tuple(self._broadcasts),
            exchange=exchange,
        )
        self._stages.append(stage)
        return number

    def _begin(self, head: Wide, inputs: tuple[int, ...], partitions: int) -> None:
        schemas = tuple(self._stages[number].schema for number in inputs)
        self._open = Stage(
            -1,
            pa.schema([]),
            head=head,
            inputs=inputs,
            input_schemas=schemas,
            partitions=partitions,
        )
        self._steps, self._broadcasts = [], []


def cut_stages(plan: Plan) -> tuple[Stage, ...]:
    """The stages of a plan, each after those that it reads."""
    stages: list[Stage] = []
    last = _cut(stages, plan, None)
    if last != len(stages) - 1:
        raise InvariantError(
            "last-stage", "The last stage of a plan is not the one that is published."
        )
    return tuple(stages)


def _cut(stages: list[Stage], plan: Plan, exchange: Exchange | None) -> int:
    cut = _Cut(stages, plan)
    for step, schema in zip(plan.steps, plan.schemas, strict=True):
        cut.add(step, schema)
    return cut.close(plan.schema, exchange)
