"""Node objects as placement sees them: layers, slots, what others take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlsched.adapters.kubernetes.nodes import LayerRule, NodeGpus, build_node, is_out_of_service
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.usages import Usages
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.model.jobs import GroupPlacement
from mlsched.model.nodes import Device, Node
from mlsched.model.resources import GroupNeed
from tests.unit.kubernetes.conftest import node, own_pod, running

RULES = (LayerRule("pool", "cpu", "data"), LayerRule("storage", "", "storage"))


def _free(slot: str) -> bool:
    return False


def test_gpus_are_slots_with_the_model_of_the_labels() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
    built = build_node(node(metadata={"name": "a", "labels": labels}), {}, _free)
    assert len(built.devices) == 8
    assert built.devices[0].uuid == "a/gpu-0"
    assert built.devices[0].model == "NVIDIA H100 80GB HBM3"
    assert built.devices[0].memory_bytes == 81559 * 1024 * 1024


def test_mig_instances_are_slots_of_their_profile() -> None:
    status = {"allocatable": {"cpu": "8", "nvidia.com/mig-1g.10gb": "2"}}
    devices = build_node(node(status=status), {}, _free).devices
    assert [one.profile for one in devices] == ["1g.10gb", "1g.10gb"]


def test_layers_come_from_the_label_then_from_rules_then_from_gpus() -> None:
    def layer(labels: dict[str, str], **status: object) -> str:
        return build_node(
            node(metadata={"name": "a", "labels": labels}, status=status), {}, _free, RULES
        ).layer

    plain = {"allocatable": {"cpu": "8"}, "capacity": {"cpu": "8"}}
    assert layer({"mlsched.io/layer": "stateful", "pool": "cpu"}) == "stateful"
    assert layer({"pool": "cpu"}) == "data"
    assert layer({"pool": "other"}) == "gpu"
    assert layer({"storage": "yes"}) == "storage"
    assert layer({}, **plain) == ""


def test_a_node_that_is_not_ready_or_cordoned_takes_nothing_new() -> None:
    assert build_node(node(), {}, _free).schedulable
    assert not build_node(node(spec={"unschedulable": True}), {}, _free).schedulable
    silent = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    assert not build_node(node(status=silent), {}, _free).schedulable


def test_a_node_can_be_declared_out_of_service() -> None:
    taint = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
    assert is_out_of_service(node(spec={"taints": [taint]}))
    assert not is_out_of_service(node())


@given(st.integers(0, 8), st.sets(st.integers(0, 7)), st.integers(0, 10))
def test_held_slots_stay_and_free_ones_are_what_others_leave(
    total: int, held: set[int], taken: int
) -> None:
    status = {"allocatable": {"cpu": "8", "nvidia.com/gpu": str(total)}}
    names = {f"node-a/gpu-{index}" for index in held}
    built = build_node(node(status=status), {"nvidia.com/gpu": taken}, lambda slot: slot in names)
    offered = {one.uuid for one in built.devices}
    held_here = {name for name in names if int(name.rpartition("-")[2]) < total}
    assert held_here <= offered
    assert len(offered - held_here) == max(0, total - taken - len(held_here))


def test_pods_of_others_are_taken_off_and_given_back() -> None:
    usages = Usages(lambda pod: False)
    spec = {"nodeName": "node-a", "containers": [{"resources": {"requests": {"cpu": "2"}}}]}
    pod = own_pod(spec=spec, status=running())
    assert usages.observe(None, pod) == "node-a"
    assert usages.of("node-a") == {"cpu": 2000, "pods": 1}
    assert usages.observe(pod, pod) == ""
    assert usages.observe(pod, None) == "node-a"
    assert usages.of("node-a") == {}


def test_a_pod_of_others_that_is_resized_is_counted_again() -> None:
    def pod(cpus: str) -> Pod:
        spec = {"containers": [{"resources": {"requests": {"cpu": cpus}}}]}
        return own_pod(spec=spec, status=running())

    usages = Usages(lambda pod: False)
    usages.observe(None, pod("2"))
    assert usages.observe(pod("2"), pod("6")) == "node-a"
    assert usages.of("node-a") == {"cpu": 6000, "pods": 1}
    usages.observe(pod("6"), None)
    assert usages.of("node-a") == {}


def test_a_node_that_runs_as_many_pods_as_it_may_takes_none() -> None:
    status = {"allocatable": {"cpu": "8", "pods": "2"}}
    group = GroupPlacement("node-a", 1000, 0)
    for taken, free in ((1, True), (2, False), (3, False)):
        ledger = Ledger([build_node(node(status=status), {"pods": taken}, _free)])
        assert (place((GroupNeed(1000, 0, 0),), ledger) is not None) is free
        assert ledger.has_room_for((group,)) is free


def test_pods_that_the_ledger_counts_are_not_counted_twice() -> None:
    owned = True
    usages = Usages(lambda pod: owned)
    pod = own_pod(status=running())
    assert usages.observe(None, pod) == ""
    owned = False
    assert usages.observe(None, pod) == "node-a"


def known(healthy: int, broken: int = 0, **more: str) -> NodeGpus:
    well = [Device(f"GPU-w{n}", "H200", 141 << 30, **more) for n in range(healthy)]
    ill = [Device(f"GPU-b{n}", "H200", 141 << 30, **more, healthy=False, health_reason="Xid 79")
           for n in range(broken)]  # fmt: skip
    return NodeGpus((*ill, *well))


def with_plugin(total: int, gpus: NodeGpus, held: int = 0, taken: int = 0) -> Node:
    status = {"allocatable": {"cpu": "8", "nvidia.com/gpu": str(total)}}
    names = {f"node-a/gpu-{index}" for index in range(held)}
    others = {"nvidia.com/gpu": taken}
    return build_node(node(status=status), others, lambda slot: slot in names, (), gpus)


def unhealthy(built: Node) -> list[str]:
    return [one.uuid for one in built.devices if not one.healthy]


def test_as_many_free_slots_are_unhealthy_as_the_agent_finds_broken() -> None:
    built = with_plugin(8, known(6, 2))
    assert unhealthy(built) == ["node-a/gpu-6", "node-a/gpu-7"]
    assert built.devices[7].health_reason == "GPU-b0 (and 1 more): Xid 79"


def test_what_the_plugin_took_out_is_not_taken_out_again() -> None:
    assert unhealthy(with_plugin(6, known(6, 2))) == []
    assert len(unhealthy(with_plugin(7, known(6, 2)))) == 1


def test_shared_gpus_are_offered_several_times() -> None:
    assert len(unhealthy(with_plugin(32, known(7, 1)))) == 4
    assert unhealthy(with_plugin(28, known(7, 1))) == []


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_slots_that_are_held_stay_healthy_and_enough_free_ones_are_not(
    total: int, broken: int, held: int, taken: int
) -> None:
    before = with_plugin(total, NodeGpus(), held, taken)
    built = with_plugin(total, known(8 - broken, broken), held, taken)
    assert [one.uuid for one in built.devices] == [one.uuid for one in before.devices]
    holding = {f"node-a/gpu-{index}" for index in range(held)}
    assert not holding & set(unhealthy(built))
    free = len(built.devices) - len([one for one in built.devices if one.uuid in holding])
    assert len(unhealthy(built)) == min(free, max(0, total - (8 - broken)))


def test_the_agent_tells_the_model_where_labels_do_not() -> None:
    assert with_plugin(1, known(1)).devices[0].model == "H200"
    assert with_plugin(1, known(1)).devices[0].memory_bytes == 141 << 30
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100", "nvidia.com/gpu.memory": "1"}
    named = node(metadata={"name": "node-a", "labels": labels})
    (first, *_) = build_node(named, {}, _free, (), known(8)).devices
    assert (first.model, first.memory_bytes) == ("NVIDIA H100", 1 << 20)


def test_instances_stand_for_gpus_where_the_plugin_says_so() -> None:
    built = with_plugin(7, known(6, 1, profile="1g.10gb"))
    assert len(unhealthy(built)) == 1


def test_published_devices_take_the_place_of_slots() -> None:
    devices = tuple(Device(f"d/p/gpu-{n}", "H100", 1) for n in range(3))
    gpus = NodeGpus(note="note", published=devices, taken=frozenset({"d/p/gpu-0", "d/p/gpu-1"}))
    plain = {"allocatable": {"cpu": "8"}, "capacity": {"cpu": "8"}}
    built = build_node(node(status=plain), {}, lambda slot: slot == "d/p/gpu-1", (), gpus)
    assert [one.uuid for one in built.devices] == ["d/p/gpu-1", "d/p/gpu-2"]
    assert (built.layer, built.gpu_note) == ("gpu", "note")
