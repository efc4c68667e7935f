"""What one cycle decides: order, gangs, overtaking, reasons."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from mlsched.core import cycle
from mlsched.core.explain import explain, preview
from mlsched.core.policies.fifo import Fifo
from mlsched.model.jobs import JobState, ResolvedDependency
from mlsched.model.reasons import ReasonCode
from mlsched.model.snapshots import Plan
from mlsched.testing.builders import device, job
from mlsched.testing.cases import Case


def test_jobs_start_in_order_of_acceptance_until_the_machine_is_full(case: Case) -> None:
    case.node("a", gpus=8)
    case.job("first", gpus=4)
    case.job("second", gpus=4)
    case.job("third", gpus=1)
    case.expect(starts={"first": "a", "second": "a"}, waits={"third": "WaitingForCapacity"})


def test_a_higher_priority_goes_first_however_late_it_came(case: Case) -> None:
    case.node("a", gpus=1)
    case.job("early", gpus=1)
    case.job("urgent", gpus=1, priority=100)
    case.expect(starts={"urgent": "a"}, waits={"early": "WaitingForCapacity"})


def test_a_small_job_may_not_delay_a_large_one_that_is_ahead(case: Case) -> None:
    case.node("a", gpus=8)
    case.job("running", gpus=4, running_on="a")
    case.job("large", gpus=8)
    case.job("small", gpus=1)
    case.expect(starts={}, waits={"large": "WaitingForCapacity", "small": "LowerPriority"})


def test_a_small_job_may_use_what_the_large_one_does_not_need(case: Case) -> None:
    case.node("a", gpus=8)
    case.job("running", gpus=6, running_on="a")
    case.job("large", gpus=4)
    for name in "bcdef":
        case.job(name, gpus=1)
    case.expect(
        starts={"b": "a", "c": "a"},
        waits={"large": "WaitingForCapacity"} | dict.fromkeys("def", "WaitingForCapacity"),
    )


def test_what_overtook_before_counts_against_the_next_that_wants_to_overtake(case: Case) -> None:
    case.node("a", gpus=8)
    case.job("running", gpus=3, running_on="a")
    case.job("large", gpus=6)
    case.job("overtook", gpus=2, running_on="a")
    case.job("next", gpus=1)
    case.expect(starts={}, waits={"large": "WaitingForCapacity", "next": "LowerPriority"})


def test_a_cpu_job_passes_a_gpu_job_that_waits_for_gpus(case: Case) -> None:
    case.node("a", gpus=2, cpus=8)
    case.job("running", gpus=2, running_on="a")
    case.job("gpu", gpus=2)
    case.job("cpu", cpus=4)
    case.expect(starts={"cpu": "a"}, waits={"gpu": "WaitingForCapacity"})


def test_a_gang_is_placed_whole_or_not_at_all(case: Case) -> None:
    case.node("a", gpus=4)
    case.node("b", gpus=3)
    case.job("gang", gpus=4, nodes=2)
    case.expect(starts={}, waits={"gang": "NeverFits"})


def test_a_gang_spans_nodes_and_holds_distinct_devices(case: Case) -> None:
    case.node("a", gpus=2)
    case.node("b", gpus=2)
    case.job("gang", gpus=1, nodes=3)
    placements = case.plan().placements["gang"]
    uuids = [uuid for group in placements for uuid in group.devices]
    assert len(set(uuids)) == 3


def test_enough_in_all_but_not_together_is_called_fragmented(case: Case) -> None:
    case.node("a", gpus=4)
    case.node("b", gpus=4)
    case.job("on-a", gpus=3, running_on="a")
    case.job("on-b", gpus=3, running_on="b")
    case.job("pair", gpus=2)
    case.expect(starts={}, waits={"pair": "Fragmented"})


def test_an_unhealthy_gpu_is_not_given_away_and_the_reason_says_so(case: Case) -> None:
    sick = device("GPU-1", healthy=False, health_reason="Xid 79")
    case.node("a", devices=(device("GPU-0"), sick))
    case.job("pair", gpus=2)
    plan = case.plan()
    assert plan.reasons["pair"].code is ReasonCode.DEVICES_UNHEALTHY
    assert "Xid 79" in plan.reasons["pair"].message


def test_a_mig_instance_is_never_given_for_a_whole_gpu(case: Case) -> None:
    case.node("a", devices=(device("MIG-1", memory_gib=10, profile="1g.10gb"),))
    case.job("whole", gpus=1)
    case.job("slice", gpus=1, gpu_model="1g.10gb", mig=True)
    case.expect(starts={"slice": "a"}, waits={"whole": "NeverFits"})


def test_a_cpu_job_goes_to_a_node_without_gpus_where_there_is_one(case: Case) -> None:
    case.node("gpu", gpus=8)
    case.node("plain")
    case.job("cpu")
    case.expect(starts={"cpu": "plain"})


def test_the_smallest_gpu_that_will_do_is_taken(case: Case) -> None:
    case.node("a", devices=(device("GPU-big"), device("GPU-small", "Tesla T4", 16)))
    case.job("any", gpus=1)
    assert case.plan().placements["any"][0].devices == ("GPU-small",)


def test_holders_of_what_is_waited_for_are_named(case: Case) -> None:
    case.node("a", gpus=4)
    case.job("train-3", gpus=3, running_on="a")
    case.job("next", gpus=2)
    reason = case.plan().reasons["next"]
    assert "needs 2 GPUs: 1 of 4 free; held by train-3 (3)" in reason.message
    assert reason.evidence["free"] == 1


@pytest.mark.parametrize("need", [{"cpus": 99}, {"memory_per_node": 1 << 50}, {"gpus": 9}])
def test_what_no_empty_node_could_hold_never_fits(case: Case, need: dict[str, int]) -> None:
    case.node("a", gpus=8)
    case.job("huge", **need)
    case.expect(starts={}, waits={"huge": "NeverFits"})


def test_a_job_that_never_fits_blocks_nobody(case: Case) -> None:
    case.node("a", gpus=8)
    case.job("huge", gpus=16)
    case.job("small", gpus=1)
    case.expect(starts={"small": "a"}, waits={"huge": "NeverFits"})


def test_a_dependency_is_waited_for(case: Case) -> None:
    case.node("a")
    case.job("first", running_on="a")
    waiting = job("second", 2)
    dependency = ResolvedDependency("first", "first", "ok")
    case.jobs.append(replace(waiting, after=(dependency,)))
    case.states["first"] = JobState.RUNNING
    case.expect(starts={}, waits={"second": "DependencyPending"})


def test_a_job_in_backoff_waits_and_says_how_long(case: Case) -> None:
    case.node("a")
    case.job("again")
    case.backoffs["again"] = 5_500
    reason = case.plan().reasons["again"]
    assert (reason.code, reason.evidence["wait_s"]) == (ReasonCode.RETRY_BACKOFF, 5)


def test_deciding_leaves_the_ledger_as_it_was(case: Case) -> None:
    case.node("a", gpus=8)
    case.job("running", gpus=4, running_on="a")
    case.job("next", gpus=4)
    snapshot, ledger = case.snapshot()
    case.checked = True
    before = dict(ledger.held)
    explain(snapshot.candidates[0], snapshot, ledger, Fifo())
    preview(job("new", 9, 1), snapshot, ledger, Fifo())
    assert (dict(ledger.held), ledger.free_device_count("a")) == (before, 4)


def test_why_names_changes_with_which_the_job_would_start(case: Case) -> None:
    case.node("a", devices=(device("GPU-0"), device("GPU-1", "Tesla T4", 16)))
    case.job("running", gpus=1, gpu_model="H100", running_on="a")
    case.job("waiting", gpus=1, gpu_model="H100")
    snapshot, ledger = case.snapshot()
    case.checked = True
    told = explain(snapshot.candidates[0], snapshot, ledger, Fifo())
    assert told.reason.code is ReasonCode.WAITING_FOR_CAPACITY
    assert "any GPU model" in told.unblocks
    assert "--gpus Tesla-T4:1" in told.unblocks


def test_why_proposes_fewer_gpus(case: Case) -> None:
    case.node("a", gpus=8)
    case.job("running", gpus=5, running_on="a")
    case.job("waiting", gpus=4)
    snapshot, ledger = case.snapshot()
    case.checked = True
    told = explain(snapshot.candidates[0], snapshot, ledger, Fifo())
    assert told.unblocks == ("--gpus 3",)


def test_why_a_large_gang_waits_takes_few_decisions(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as it has nodes would keep a service busy for minutes."""
    decisions = 0

    def decide(*args: Any) -> Plan:
        nonlocal decisions
        decisions += 1
        return cycle.decide(*args)

    monkeypatch.setattr("mlsched.core.explain.decide", decide)
    case.node("a", cpus=16)
    case.job("running", cpus=5, running_on="a")
    case.job("large", nodes=10_000, gpus=0, cpus=0.1)
    snapshot, ledger = case.snapshot()
    case.checked = True
    told = explain(snapshot.candidates[0], snapshot, ledger, Fifo())
    assert told.unblocks == ("--nodes 110",)
    assert decisions < 20


def test_a_placement_says_why_there(case: Case) -> None:
    case.node("a", gpus=2, cpus=4, memory_gib=8)
    case.job("j", gpus=1)
    assert case.plan().choices == {
        "j": "a is the only node; free there were 4 CPUs, 8 GiB, 2 of 2 GPUs"
    }


def test_what_overtakes_changes_the_answer_for_those_behind_it(case: Case) -> None:
    case.node("a", gpus=8, cpus=16)
    case.job("running", gpus=4, running_on="a")
    case.job("large", gpus=8)
    case.job("before", gpus=1, cpus=2)
    case.job("overtakes", cpus=14)
    case.job("behind", gpus=1, cpus=2)
    case.expect(
        starts={"overtakes": "a"},
        waits={
            "large": "WaitingForCapacity",
            "before": "LowerPriority",
            "behind": "WaitingForCapacity",
        },
    )


def test_a_job_that_cannot_start_even_alone_holds_nobody_up(case: Case) -> None:
    sick = device("GPU-1", healthy=False, health_reason="Xid 79")
    case.node("a", devices=(device("GPU-0"), sick))
    case.job("pair", gpus=2)
    case.job("single", gpus=1)
    case.expect(starts={"single": "a"}, waits={"pair": "DevicesUnhealthy"})


def test_of_many_holders_the_number_is_told(case: Case) -> None:
    case.node("a", gpus=101, cpus=200)
    for index in range(101):
        case.job(f"j{index}", gpus=1, running_on="a")
    case.job("next", gpus=1)
    case.job("cpu", cpus=100)
    reasons = case.plan().reasons
    assert reasons["next"].message == "needs 1 GPU: 0 of 101 free; held by 101 jobs"
    assert reasons["cpu"].message == "needs 100 CPUs: 99 of 200 free; held by 101 jobs"
    assert reasons["next"].evidence["holders"] == []
