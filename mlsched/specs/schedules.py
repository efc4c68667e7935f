"""Documents of kind Schedule: a cron expression and the MLJob that each tick submits."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from mlsched.errors import SpecError
from mlsched.model.specs import API_VERSION, KIND
from mlsched.specs.documents import load_document
from mlsched.specs.limits import check_name
from mlsched.specs.values import read_text_map

SCHEDULE_KIND = "Schedule"
SCHEDULE_LABEL = "mlsched.io/schedule"

LAST_TICK_MS = 9_999_999_999_000
"""Its seconds have as many digits as those of any tick until the year 2286."""


class _ScheduleSpec(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    cron: str
    job: dict[str, Any]
    time_zone: str = "UTC"
    missed: Literal["latest", "all"] = "latest"
    suspend: bool = False


class _ScheduleMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    labels: dict[str, str] = {}


class _Document(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    api_version: str
    kind: str
    metadata: _ScheduleMetadata
    spec: _ScheduleSpec


_DOCUMENT = msgspec.json.Decoder(_Document)


class ScheduleDocument(Struct, frozen=True):
    """A schedule as it was read and checked.

    ``missed``: after downtime fire only the latest tick that was missed, or all of them.
    """

    name: str
    cron: str
    time_zone: str
    missed: str
    suspend: bool
    job: dict[str, Any]
    labels: dict[str, str] = {}
    """Of the schedule; its jobs get them too."""

    def job_document(self, tick_ms: int) -> dict[str, Any]:
        """The MLJob that one tick submits: labelled with the schedule, told its tick."""
        spec = dict(self.job)
        spec["labels"] = {**self.labels, **spec.get("labels", {}), SCHEDULE_LABEL: self.name}
        spec["env"] = {**spec.get("env", {}), "MLSCHED_TICK_MS": str(tick_ms)}
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": f"{self.name}-{tick_ms // 1000}"},
            "spec": spec,
        }


def load_schedule(document: dict[str, Any]) -> ScheduleDocument:
    """Read and check a schedule, the job in it included.

    Raises:
        SpecError: names the field, what was found and what is allowed.
    """
    try:
        found = msgspec.convert(document, _DOCUMENT.type)
    except msgspec.ValidationError as error:
        raise SpecError(
            f"the schedule is not as it should be: {error}.",
            "Needed: apiVersion, kind: Schedule, metadata.name, spec.cron, spec.job.",
        ) from error
    if found.api_version != API_VERSION or found.kind != SCHEDULE_KIND:
        raise SpecError(
            f"expected apiVersion {API_VERSION} and kind {SCHEDULE_KIND}, "
            f"found {found.api_version[:40]!r} and {found.kind[:40]!r}."
        )
    check_name(found.metadata.name)
    spec = found.spec
    for field in ("labels", "env"):
        read_text_map(spec.job.get(field, {}), f"spec.job.{field}")
    schedule = ScheduleDocument(
        found.metadata.name,
        spec.cron,
        spec.time_zone,
        spec.missed,
        spec.suspend,
        spec.job,
        found.metadata.labels,
    )
    load_document(schedule.job_document(LAST_TICK_MS))
    return schedule
