"""Which nodes a job may use at all, and the sentence for a rule that leaves none."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mlsched.core.explain import explain
from mlsched.core.filters import AVAILABLE, admits, tolerates
from mlsched.core.policies.fifo import Fifo
from mlsched.model.affinities import NodeTerm, Requirement
from mlsched.model.nodes import Taint
from mlsched.model.reasons import ReasonCode
from mlsched.model.resources import GroupNeed
from mlsched.model.specs import Toleration
from mlsched.testing.builders import device, node
from mlsched.testing.cases import Case

INFRA = Taint("dedicated", "infra")
NOT_READY = Taint("node.kubernetes.io/not-ready", effect="NoExecute")


@pytest.mark.parametrize(
    ("toleration", "matches"),
    [
        (Toleration("dedicated", "Equal", "infra"), True),
        (Toleration("dedicated", "Equal", "infra", "NoSchedule"), True),
        (Toleration("dedicated", "Equal", "infra", "NoExecute"), False),
        (Toleration("dedicated", "Equal", "ml"), False),
        (Toleration("dedicated", "Equal"), False),
        (Toleration("dedicated", "Exists"), True),
        (Toleration("other", "Exists"), False),
        (Toleration("", "Exists"), True),
        (Toleration("", "Exists", effect="NoExecute"), False),
        (Toleration("", "Equal", "infra"), False),
    ],
)
def test_what_a_toleration_matches(toleration: Toleration, matches: bool) -> None:
    assert tolerates(toleration, INFRA) is matches


@pytest.mark.parametrize(
    ("layer", "wanted", "admitted"),
    [
        ("local", "gpu", True),
        ("", "data", True),
        ("gpu", "gpu", True),
        ("gpu", "data", False),
        ("gpu", "", True),
    ],
)
def test_a_node_of_a_layer_takes_jobs_of_that_layer(
    layer: str, wanted: str, admitted: bool
) -> None:
    assert admits(GroupNeed(1000, 0, 0, layer=wanted), node(layer=layer)) is admitted


def test_a_condition_bars_a_node_only_while_conditions_are_heeded() -> None:
    need = GroupNeed(1000, 0, 0)
    for one in (node(taints=(NOT_READY,)), node(schedulable=False)):
        assert not admits(need, one)
        assert admits(need, one, AVAILABLE)
    assert not admits(need, node(taints=(NOT_READY, INFRA)), AVAILABLE)


def test_gpu_jobs_go_to_layer_gpu_and_others_to_layer_data(case: Case) -> None:
    case.node("a", layer="gpu", gpus=2)
    case.node("b", layer="data", gpus=2)
    case.node("c", layer="storage")
    case.job("train", gpus=1)
    case.job("analyse")
    case.job("wash", layer="storage")
    case.expect(starts={"train": "a", "analyse": "b", "wash": "c"})


def test_the_choice_names_the_layer_and_its_rule(case: Case) -> None:
    case.node("a", layer="gpu", gpus=2, cpus=4, memory_gib=8)
    case.node("b", layer="gpu", cpus=4, memory_gib=8)
    case.node("c", layer="data", cpus=4, memory_gib=8)
    case.job("train", gpus=1)
    case.job("analyse")
    case.job("own", layer="gpu")
    choices = case.plan().choices
    assert choices["train"] == (
        "a is of 2 nodes of layer gpu the one that is left fullest (GPU jobs go to layer gpu); "
        "free there were 4 CPUs, 8 GiB, 2 of 2 GPUs"
    )
    assert choices["analyse"].startswith(
        "c is the only node of layer data (jobs without GPUs go to layer data);"
    )
    assert "(it asks for layer gpu)" in choices["own"]


def test_a_selector_and_a_taint_leave_the_node_that_will_do(case: Case) -> None:
    case.node("a", labels={"zone": "a"}, taints=(INFRA,))
    case.node("b", labels={"zone": "b"})
    case.node("c", labels={"zone": "a"})
    case.job("there", node_selector={"zone": "a"})
    case.job("infra", node_selector={"zone": "a"}, cpus=16, tolerations=(Toleration("", "Exists"),))
    case.expect(starts={"there": "c", "infra": "a"})


def test_a_node_that_prefers_no_job_is_the_last_choice(case: Case) -> None:
    case.node("a", cpus=1, taints=(Taint("slow", effect="PreferNoSchedule"),))
    case.node("b", cpus=2)
    case.job("first")
    case.job("second")
    case.job("third")
    case.expect(starts={"first": "b", "second": "b", "third": "a"})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"layer": "stateful"},
            "runs on layer stateful, and no node is of that layer (layers here: data, gpu)",
        ),
        ({"node_selector": {"zone": "c"}}, "no node of layer data has the label zone=c"),
        (
            {"node_selector": {"zone": "a", "disk": "ssd"}},
            "no node of layer data has the labels disk=ssd, zone=a together",
        ),
        ({"layer": "gpu", "node_selector": {"zone": "c"}}, "no node of layer gpu has"),
        (
            {"layer": "gpu"},
            "the only node that would do has the taint dedicated=infra:NoSchedule",
        ),
        ({"cpus": 99}, "asks for 99 CPUs, and what exists on the 2 nodes that would do is 32"),
    ],
)
def test_the_rule_that_leaves_no_node_is_named(
    case: Case, spec: dict[str, object], message: str
) -> None:
    case.node("a", layer="data", labels={"zone": "a"})
    case.node("b", layer="data", labels={"disk": "ssd"})
    case.node("g", layer="gpu", taints=(INFRA,))
    case.job("job", **spec)
    reason = case.plan().reasons["job"]
    assert reason.code is ReasonCode.NEVER_FITS
    assert reason.message.startswith(message)


def test_an_affinity_that_no_node_suits_is_told(case: Case) -> None:
    case.node("a", labels={"zone": "a"})
    zones = Requirement("zone", "In", frozenset({"c", "b"}))
    case.gang("job", GroupNeed(1000, 0, 0, affinity=(NodeTerm((zones,)), NodeTerm())))
    reason = case.plan().reasons["job"]
    assert reason.code is ReasonCode.NEVER_FITS
    assert reason.message == "no node suits its node affinity: zone In (b, c), or nothing"


def test_taints_that_all_nodes_have_are_told(case: Case) -> None:
    for name in "abc":
        case.node(name, taints=(INFRA,))
    case.job("job")
    message = "all 3 nodes that would do have the taint dedicated=infra:NoSchedule"
    assert case.plan().reasons["job"].message == message
    case.nodes[0] = replace(case.nodes[0], taints=(Taint("gone", effect="NoExecute"),))
    assert case.plan().reasons["job"].message == (
        "all 3 nodes that would do have taints that it does not tolerate: "
        "dedicated=infra:NoSchedule, gone:NoExecute"
    )


def test_a_node_that_takes_no_jobs_now_is_no_reason_for_ever(case: Case) -> None:
    case.node("a", taints=(NOT_READY,))
    case.node("b", schedulable=False)
    case.job("job", cpus=9)
    case.job("huge", cpus=17)
    reasons = case.plan().reasons
    assert reasons["job"].code is ReasonCode.NODES_UNAVAILABLE
    assert reasons["job"].message.endswith(
        "would fit if these nodes took jobs: "
        "a (node.kubernetes.io/not-ready:NoExecute), b (takes no jobs)"
    )
    assert reasons["huge"].code is ReasonCode.NEVER_FITS


def test_a_full_node_of_the_layer_does_not_make_free_gpus_of_others_count(case: Case) -> None:
    case.node("a", layer="gpu", gpus=2)
    case.node("b", layer="data", gpus=8)
    case.job("running", gpus=2, running_on="a")
    case.job("next", gpus=1)
    message = "needs 1 GPU: 0 of 2 free; held by running (2)"
    assert case.plan().reasons["next"].message == message


def test_no_more_groups_run_on_a_node_than_it_may_have_pods(case: Case) -> None:
    case.node("a", pods_max=2)
    case.node("b", pods_max=1)
    for name in ("first", "second", "third", "fourth"):
        case.job(name)
    plan = case.plan()
    assert sorted(plan.placements) == ["first", "second", "third"]
    assert plan.reasons["fourth"].message.startswith("needs room for 1 pod: 0 of 3 free; held by")
    case.job("wide", nodes=4)
    assert case.plan().reasons["wide"].code is ReasonCode.NEVER_FITS


HEAD = GroupNeed(4000, 0, 0)
WORKER = GroupNeed(8000, 0, 4)


def test_a_gang_of_unlike_members_is_placed_whole_in_the_order_of_its_members(case: Case) -> None:
    case.node("a", gpus=4, cpus=8)
    case.node("b", gpus=4, cpus=8)
    case.node("c", cpus=4)
    case.gang("ray", HEAD, WORKER, WORKER)
    placements = case.plan().placements["ray"]
    assert [group.node for group in placements] == ["c", "a", "b"]
    assert [len(group.devices) for group in placements] == [0, 4, 4]


def test_the_largest_member_is_placed_first(case: Case) -> None:
    """The small one first would take the room of the large one."""
    case.node("a", cpus=4)
    case.node("b", cpus=8)
    case.gang("pair", GroupNeed(3000, 0, 0), GroupNeed(8000, 0, 0), GroupNeed(1000, 0, 0))
    assert [group.node for group in case.plan().placements["pair"]] == ["a", "b", "a"]


def test_the_member_that_is_short_is_told(case: Case) -> None:
    case.node("a", gpus=4)
    case.node("b", gpus=4)
    case.job("running", gpus=4, running_on="a")
    case.gang("ray", HEAD, WORKER, WORKER)
    case.gang("huge", HEAD, WORKER, WORKER, WORKER)
    case.gang("mixed", GroupNeed(1000, 0, 5), HEAD)
    reasons = case.plan().reasons
    assert reasons["ray"].message.startswith("needs 2 groups of 4 GPUs: 4 of 8 free")
    assert reasons["huge"].message == (
        "asks for 3 groups of 4 GPUs, and what exists is 8 x NVIDIA H100 80GB HBM3"
    )
    assert reasons["mixed"].message == (
        "asks for 5 GPUs, 1 CPU and 4 CPUs, which no set of nodes here has together"
    )


def test_members_that_are_short_only_together_are_told_together(case: Case) -> None:
    case.node("a", gpus=4)
    case.node("b", gpus=4)
    case.job("running", gpus=2, running_on="a")
    case.gang("ray", WORKER, GroupNeed(1000, 0, 3))
    message = "needs 7 GPUs in all: 6 of 8 free; held by running (2)"
    assert case.plan().reasons["ray"].message == message


def test_jobs_of_a_paused_queue_are_held(case: Case) -> None:
    case.node("a")
    case.paused_queues = frozenset({"night", "team/night"})
    case.job("held", queue="night")
    case.job("open", queue="night", queues=("day",))
    case.job("both", queue="team")
    case.jobs.append(replace(case.job("theirs", queue="night"), namespace="team", id="theirs"))
    case.jobs.pop(-2)
    plan = case.plan()
    assert sorted(plan.placements) == ["both", "open"]
    assert plan.reasons["held"].code is ReasonCode.HELD
    assert plan.reasons["theirs"].message == "queue night is paused"


def test_why_names_another_layer_and_the_selector(case: Case) -> None:
    case.node("a", layer="gpu", gpus=1, labels={"zone": "a"})
    case.node("b", layer="data")
    case.job("lost", layer="storage")
    case.job("picky", gpus=1, node_selector={"zone": "b"})
    snapshot, ledger = case.snapshot()
    case.checked = True
    lost, picky = (explain(one, snapshot, ledger, Fifo()) for one in snapshot.candidates)
    assert lost.unblocks == ("--layer data", "--layer gpu")
    assert "no --node-selector" in picky.unblocks


def test_a_sick_gpu_of_a_node_that_would_not_do_is_not_blamed(case: Case) -> None:
    sick = device("GPU-s", healthy=False, health_reason="Xid 79")
    case.node("a", layer="data", devices=(sick,))
    case.node("b", layer="gpu", gpus=2)
    case.job("running", gpus=2, running_on="b")
    case.job("next", gpus=1)
    assert case.plan().reasons["next"].code is ReasonCode.WAITING_FOR_CAPACITY
