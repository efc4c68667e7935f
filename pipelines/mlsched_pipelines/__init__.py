"""Arrow data pipelines: a plan over files, published as whole versions, and fed to training.

    from mlsched_pipelines import Feed, Plan, csv, open_dataset, run

    plan = Plan.scan(csv("in.csv", schema)).filter(...).write("dataset")
    run(plan, interval="2026-11-26")
    for batch in Feed(open_dataset("dataset"), batch_size=64).batches():
        ...

Imports the error classes and units of `mlsched` and nothing else of it.
"""

from __future__ import annotations

from mlsched_pipelines.datasets import Dataset, open_dataset
from mlsched_pipelines.engines import Call, Engine, Outcome
from mlsched_pipelines.engines.local import LocalEngine
from mlsched_pipelines.explains import Explanation, explain
from mlsched_pipelines.feed import Batch, Feed, FeedState
from mlsched_pipelines.plans import Plan
from mlsched_pipelines.progress import Progress
from mlsched_pipelines.runs import RunReport, run
from mlsched_pipelines.schema import Check, Contract
from mlsched_pipelines.sources import Source, arrow, csv, from_pandas, parquet, table
from mlsched_pipelines.starting import start_engine
from mlsched_pipelines.stores.commits import collect_orphans

__all__ = [
    "Batch",
    "Call",
    "Check",
    "Contract",
    "Dataset",
    "Engine",
    "Explanation",
    "Feed",
    "FeedState",
    "LocalEngine",
    "Outcome",
    "Plan",
    "Progress",
    "RunReport",
    "Source",
    "arrow",
    "collect_orphans",
    "csv",
    "explain",
    "from_pandas",
    "open_dataset",
    "parquet",
    "run",
    "start_engine",
    "table",
]
