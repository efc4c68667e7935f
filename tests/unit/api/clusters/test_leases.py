"""Whether somebody schedules, by the leases of its name, and what is told where nobody does."""

from __future__ import annotations

import pytest

from mlsched.adapters.kubernetes.announcements import (
    LEASES,
    Announcement,
    write_announcement,
)
from mlsched.adapters.kubernetes.connections import seconds_ahead
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.api.clusters.leases import read_controller
from tests.unit.api.clusters.conftest import NOW_S, Served, at

FORGED = write_announcement(Announcement(image="evil:1"))
TRUE = write_announcement(Announcement(image="true:1"))


def test_a_lease_that_is_renewed_has_a_holder(served: Served) -> None:
    served[1].lease(annotations=TRUE)
    found = read_controller(served[1])
    assert (found.holder, found.namespaces) == ("pod_1_abc", ("mlsched",))
    assert (found.trouble, found.note) == ("", "")
    assert found.settings == Announcement(image="true:1")


def test_no_lease_is_no_controller(served: Served) -> None:
    found = read_controller(served[1])
    assert (found.holder, found.settings) == ("", None)
    assert found.trouble.endswith("nothing is placed or cancelled until one runs")


@pytest.mark.parametrize(
    "spec",
    [
        {"renewTime": at(NOW_S - 300)},
        {"renewTime": at(NOW_S - 300), "holderIdentity": ""},
        {"renewTime": at(NOW_S - 300), "leaseDurationSeconds": None},
    ],
)
def test_a_lease_that_nobody_renews_is_no_controller(served: Served, spec: object) -> None:
    served[1].lease(**spec)  # type: ignore[arg-type]
    found = read_controller(served[1])
    assert found.holder == ""
    assert "the last was heard 5m00s ago" in found.trouble


def test_a_lease_that_was_never_renewed_is_no_controller(served: Served) -> None:
    served[1].lease(renewTime=None)
    assert read_controller(served[1]).holder == ""


def test_clocks_may_differ_by_as_long_as_a_lease_lasts(served: Served) -> None:
    for renewed_s in (NOW_S - 29, NOW_S + 3600):
        served[1].lease(renewTime=at(renewed_s))
        assert read_controller(served[1]).holder
    served[1].lease(renewTime=at(NOW_S - 31))
    assert not read_controller(served[1]).holder


def test_the_oldest_lease_that_is_held_counts(served: Served) -> None:
    served[1].lease("mlsched", annotations=TRUE, created=at(NOW_S - 9000))
    served[1].lease("forged", annotations=FORGED, created=at(NOW_S - 60))
    served[1].lease("gone", annotations=FORGED, created=at(0), renewTime=at(NOW_S - 500))
    found = read_controller(served[1])
    assert found.settings == Announcement(image="true:1")
    assert found.namespaces == ("mlsched", "forged")


def test_without_rights_nothing_is_claimed(served: Served) -> None:
    served[1].forbidden = {LEASES}
    found = read_controller(served[1])
    assert (found.holder, found.trouble) == (None, "")
    assert "you may not read" in found.note


def test_trouble_of_the_api_server_is_not_taken_for_missing_rights(served: Served) -> None:
    served[1].broken = {LEASES}
    with pytest.raises(ApiError):
        read_controller(served[1])


def test_the_clock_of_the_server_is_read_from_its_answers() -> None:
    date = "Thu, 26 Nov 2026 13:00:00 GMT"
    now_s = 1795698000.0
    assert seconds_ahead(date, now_s - 120) == 120
    assert seconds_ahead(date, now_s + 120) == -120
    assert seconds_ahead(date, now_s + 1.5) == 0
    for nonsense in (None, "", "yesterday"):
        assert seconds_ahead(nonsense, now_s) == 0


@pytest.mark.parametrize("time", ["0000-01-01T00:00:00.000000Z", "never"])
def test_a_lease_that_somebody_made_up_stops_nobody(served: Served, time: str) -> None:
    """Kubernetes has a year 0, which Python has not."""
    client, server = served
    server.lease("team", renewTime=time)
    assert read_controller(client.connections).holder == ""
    server.lease()
    assert read_controller(client.connections).holder == "pod_1_abc"
