"""A placed job as pods: names, owners, security, environment, what is refused."""

from __future__ import annotations

import base64

import pytest
from msgspec.structs import replace

from mlsched.adapters.kubernetes.pods import (
    build_pod,
    build_secret,
    build_service,
    node_address,
    pod_name,
    service_name,
)
from mlsched.errors import SpecError
from mlsched.model.jobs import ArrayMembership, GroupPlacement
from tests.unit.kubernetes.conftest import OWNER, placed_job

NOW_S = 1_700_000_000


def test_a_pod_is_created_already_placed_under_a_fixed_name() -> None:
    pod = build_pod(placed_job(2), OWNER, 1, NOW_S)
    assert pod["metadata"]["name"] == "train-1-1"
    assert pod["spec"]["nodeName"] == "node-b"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


def test_names_of_elements_cannot_be_those_of_another_job() -> None:
    job = replace(placed_job(), array=ArrayMembership("team/train", "train", 3, 5))
    assert pod_name(job, OWNER, 0) == "train.3-1-0"


def test_a_pod_keeps_the_restricted_pod_security_standard() -> None:
    spec = build_pod(placed_job(), OWNER, 0, NOW_S)["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not spec["automountServiceAccountToken"]


def test_the_ranks_of_a_gang_meet_at_the_first_pod() -> None:
    job = placed_job(2)
    pod = build_pod(job, OWNER, 1, NOW_S)
    env = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    assert env["MASTER_ADDR"] == node_address(job, OWNER, 0)
    assert (env["RANK"], env["WORLD_SIZE"], env["MLSCHED_NUM_NODES"]) == ("1", "2", "2")
    assert pod["spec"]["subdomain"] == build_service(job, OWNER)["metadata"]["name"]


def test_a_service_has_a_name_that_dns_takes_whatever_the_job_is_called() -> None:
    owner = replace(OWNER, name="3d-" + "x" * 60)
    name = service_name(placed_job(2), owner)
    assert len(name) <= 63
    assert name[0].isalpha()


def test_each_task_of_a_node_is_a_container_with_its_share() -> None:
    job = placed_job(tasks_per_node=2, gpus_per_node=4)
    held = GroupPlacement("node-a", 2000, 1 << 30, ("a", "b", "c", "d"))
    spec = build_pod(replace(job, placements=(held,)), OWNER, 0, NOW_S)["spec"]
    assert [one["name"] for one in spec["containers"]] == ["rank-0", "rank-1"]
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "1000m", "memory": str(1 << 29)},
        "limits": {"nvidia.com/gpu": "2", "memory": str(1 << 29)},
    }


def test_a_mig_job_asks_for_its_profile() -> None:
    job = placed_job(gpus_per_node=1, gpu_model="1g.10gb", mig=True)
    held = GroupPlacement("node-a", 1000, 0, ("node-a/mig-1g.10gb-0",))
    spec = build_pod(replace(job, placements=(held,)), OWNER, 0, NOW_S)["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/mig-1g.10gb": "1"}


def test_the_device_plugin_says_which_gpus_are_seen() -> None:
    env = build_pod(placed_job(), OWNER, 0, NOW_S)["spec"]["containers"][0]["env"]
    assert "CUDA_VISIBLE_DEVICES" not in [one["name"] for one in env]


def test_a_script_is_a_file_without_an_object_of_its_own() -> None:
    job = placed_job(script="#!/bin/sh\necho hi\n")
    pod = build_pod(job, OWNER, 0, NOW_S)
    item = pod["spec"]["volumes"][1]["downwardAPI"]["items"][0]
    assert item["mode"] == 0o555
    assert pod["metadata"]["annotations"]["mlsched.io/script"] == "#!/bin/sh\necho hi\n"
    assert pod["spec"]["containers"][0]["command"][0] == "/mlsched/script/script"


def test_words_are_taken_as_they_are() -> None:
    job = placed_job(env={"A": "$(HOME)"})
    job = replace(job, spec=replace(job.spec, command=("echo", "$(date)", "$$")))
    container = build_pod(job, OWNER, 0, NOW_S)["spec"]["containers"][0]
    assert container["command"] == ["echo", "$$(date)", "$$$$"]
    assert {"name": "A", "value": "$$(HOME)"} in container["env"]


def test_the_time_limit_holds_without_a_controller() -> None:
    job = placed_job(time_limit_seconds=60, grace_seconds=7)
    spec = build_pod(job, OWNER, 0, NOW_S)["spec"]
    assert spec["activeDeadlineSeconds"] == 60
    assert spec["terminationGracePeriodSeconds"] == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"launch": "once"}, "launch: once"),
        ({"tasks_per_node": 2, "gpus_per_node": 3}, "cannot be divided"),
    ],
)
def test_what_containers_cannot_do_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        build_pod(placed_job(2, **changes), OWNER, 0, NOW_S)


def test_a_job_without_an_image_is_refused_unless_there_is_one_for_all() -> None:
    job = placed_job()
    job = replace(job, spec=replace(job.spec, image=""))
    with pytest.raises(SpecError, match="no image"):
        build_pod(job, OWNER, 0, NOW_S)
    pod = build_pod(job, OWNER, 0, NOW_S, "registry.example/default:1")
    assert pod["spec"]["containers"][0]["image"] == "registry.example/default:1"


def test_secrets_of_users_are_referred_to_by_each_container() -> None:
    job = placed_job()
    job = replace(job, spec=replace(job.spec, env_secrets=("keys", "more")))
    (container,) = build_pod(job, OWNER, 0, NOW_S)["spec"]["containers"]
    assert [one["secretRef"]["name"] for one in container["envFrom"]] == ["keys", "more"]


def test_a_gang_refers_to_its_token_which_stands_in_its_secret_alone() -> None:
    job = placed_job(2, gang_token=True)
    secret = build_secret(job, OWNER, "5ec3e7")
    assert base64.b64decode(secret["data"]["token"]) == b"5ec3e7"
    assert secret["immutable"]
    assert secret["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    for group in (0, 1):
        pod = build_pod(job, OWNER, group, NOW_S)
        (found,) = [
            one
            for one in pod["spec"]["containers"][0]["env"]
            if one["name"] == "MLSCHED_GANG_TOKEN"
        ]
        key = {"name": secret["metadata"]["name"], "key": "token"}
        assert found == {"name": "MLSCHED_GANG_TOKEN", "valueFrom": {"secretKeyRef": key}}
    again = replace(job, attempt=2)
    assert build_secret(again, OWNER, "x")["metadata"]["name"] != secret["metadata"]["name"]
    assert "MLSCHED_GANG_TOKEN" not in str(build_pod(placed_job(2), OWNER, 0, NOW_S))
