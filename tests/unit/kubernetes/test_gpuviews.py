"""What is believed of node agents, and for how long."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mlsched.adapters.kubernetes.gpunodes import STALE_S, ToldNode
from mlsched.adapters.kubernetes.gpuviews import JUDGED_MS, GpuView
from mlsched.model.inventory import GpuEvent
from tests.unit.inventories import NOW_MS, inventory, told
from tests.unit.kubernetes.test_slices import published

XID = GpuEvent(NOW_MS, "GPU-1", "xid", 79)
DAY_MS = 86_400_000


def view_of(node: ToldNode) -> GpuView:
    view = GpuView()
    assert view.observe_gpu_node(None, node) == {"node-a"}
    return view


def test_evidence_expires_although_nothing_is_read() -> None:
    view = view_of(told(replace(inventory(2), events=(XID,)), NOW_MS + DAY_MS - JUDGED_MS))
    early = NOW_MS + DAY_MS - JUDGED_MS
    assert [one.healthy for one in view.of("node-a", early).known] == [True, False]
    assert [one.healthy for one in view.of("node-a", early + JUDGED_MS).known] == [True, True]


def test_a_new_reading_counts_at_once() -> None:
    before, after = told(inventory(2)), told(replace(inventory(2), events=(XID,)), version=2)
    view = view_of(before)
    assert all(one.healthy for one in view.of("node-a", NOW_MS).known)
    view.observe_gpu_node(before, after)
    assert not all(one.healthy for one in view.of("node-a", NOW_MS).known)
    view.observe_gpu_node(after, None)
    assert view.of("node-a", NOW_MS).known == ()


@pytest.mark.parametrize(("age_s", "count"), [(0, 1), (STALE_S, 1), (STALE_S + 1, 0)])
def test_an_agent_that_is_silent_is_not_believed(age_s: int, count: int) -> None:
    view = view_of(told(inventory(1)))
    assert len(view.of("node-a", NOW_MS).known) == 1
    found = view.of("node-a", NOW_MS + 1000 * age_s)
    assert len(found.known) == count
    assert ("15 minutes ago" in found.note) == (count == 0)


def test_an_agent_without_a_driver_says_so_and_keeps_nothing_back() -> None:
    found = view_of(told(replace(inventory(0), note="no driver"))).of("node-a", NOW_MS)
    assert (found.known, found.note) == ((), "its node agent finds no GPU: no driver")


@pytest.mark.parametrize("status", [{}, {"inventory": None}, {"inventory": {"unknown": 1}}])
def test_what_cannot_be_read_is_as_good_as_absent(status: dict[str, object]) -> None:
    at = {"publishedAt": "2027-01-15T08:00:00Z"}
    body = {"metadata": {"name": "node-a"}, "status": at | status}
    node = msgspec.json.decode(json.dumps(body), type=ToldNode)
    assert view_of(node).of("node-a", NOW_MS).known == ()


def test_a_gpu_that_was_lost_before_its_uuid_was_read_counts_as_broken() -> None:
    whole = inventory(2)
    lost = replace(whole.gpus[1], uuid="index-1")
    found = view_of(told(replace(whole, gpus=(whole.gpus[0], lost)))).of("node-a", NOW_MS).known
    assert [one.healthy for one in found] == [True, False]


@pytest.mark.parametrize("change", [{"pool": {"resourceSliceCount": 2}}, {"devices": []}])
def test_a_node_of_a_driver_stays_one_while_its_pool_is_not_whole_or_empty(
    change: dict[str, Any],
) -> None:
    view = GpuView()
    assert view.of("node-a", NOW_MS).published is None
    view.observe_slice(None, published(0, driver="nic.example.com"))
    assert view.of("node-a", NOW_MS).published is None
    view.observe_slice(None, published(0, 1, **change))
    assert view.of("node-a", NOW_MS).published == ()
