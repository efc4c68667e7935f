"""What a process of a job finds in its environment."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mlsched.core.environments import (
    LaunchContext,
    build_environment,
    clean_environment,
    is_torchrun,
    plan_processes,
)
from mlsched.model.jobs import ArrayMembership

CONTEXT = LaunchContext("/jobs/job-1/1", "/jobs/job-1/checkpoints", 23456, 1_000_000)


def _environments(job):
    processes = plan_processes(job)
    return [build_environment(job, process, CONTEXT, len(processes)) for process in processes]


def test_devices_of_the_group_are_the_only_ones_to_be_seen(make_job):
    job = make_job("train", devices=(("GPU-a", "GPU-b"), ("GPU-c",)), nodes=2)
    first, second = _environments(job)
    assert first["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert second["CUDA_VISIBLE_DEVICES"] == "GPU-c"
    assert {first["CUDA_DEVICE_ORDER"], second["CUDA_DEVICE_ORDER"]} == {"PCI_BUS_ID"}


def test_a_cpu_job_sees_no_device_whatever_its_shell_had(make_job):
    (env,) = _environments(make_job("train", env={"CUDA_VISIBLE_DEVICES": "0,1"}))
    assert env["CUDA_VISIBLE_DEVICES"] == ""


def test_a_job_started_once_sees_the_devices_of_all_its_groups(make_job):
    job = make_job("run.sh", devices=(("GPU-a",), ("GPU-b",)), nodes=2, launch="once")
    (env,) = _environments(job)
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert "RANK" not in env


def test_a_job_of_one_process_has_no_rank(make_job):
    stale = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "10.0.0.1"}
    (env,) = _environments(make_job("train", env={**stale, "PET_NNODES": "4", "HOME": "/home/ada"}))
    assert env["HOME"] == "/home/ada"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "PET_NNODES"} & set(env)


@pytest.mark.parametrize(
    "name",
    ["SLURM_PROCID", "SLURM_NTASKS", "PET_NODE_RANK", "TORCHELASTIC_RUN_ID", "GROUP_RANK",
     "ROLE_RANK", "MASTER_PORT", "MLSCHED_JOB_ID", "MLSCHED_ARRAY_INDEX", "MLSCHED_END_TIME"],
)  # fmt: skip
def test_what_an_outer_job_left_is_removed(name):
    assert clean_environment({name: "1", "KEPT": "yes"}) == {"KEPT": "yes"}


def test_settings_of_the_user_stay():
    env = {"MLSCHED_CONFIG": "/c", "MLSCHED_CONTEXT": "prod", "NCCL_DEBUG": "INFO", "RANKING": "1"}
    assert clean_environment(env) == env


def test_ranks_are_numbered_as_torchrun_numbers_them(make_job):
    job = make_job("train", devices=((), ()), nodes=2, tasks_per_node=2)
    keys = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "ROLE_RANK")
    found = [tuple(int(env[key]) for key in keys) for env in _environments(job)]
    assert found == [(0, 0, 0, 0, 0), (1, 1, 0, 0, 1), (2, 0, 1, 1, 2), (3, 1, 1, 1, 3)]
    for env in _environments(job):
        assert (env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"], env["ROLE_WORLD_SIZE"]) == (
            "4", "2", "4",
        )  # fmt: skip
        assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("127.0.0.1", "23456")


def test_the_last_group_may_have_fewer_processes(make_job):
    job = make_job("train", devices=((), ()), nodes=2, tasks=3)
    sizes = [(env["RANK"], env["NODE_RANK"], env["LOCAL_WORLD_SIZE"]) for env in _environments(job)]
    assert sizes == [("0", "0", "2"), ("1", "0", "2"), ("2", "1", "1")]


def test_torchrun_is_started_once_a_group_and_told_by_its_own_variables(make_job):
    job = make_job(
        "torchrun", "train.py", devices=(("GPU-a", "GPU-b"), ("GPU-c", "GPU-d")), nodes=2,
        env={"RANK": "5"}, attempt=3,
    )  # fmt: skip
    first, second = _environments(job)
    pet = {name: value for name, value in second.items() if name.startswith("PET_")}
    assert pet == {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "2",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": "23456",
        "PET_RDZV_ID": "job-1-3",
    }
    assert first["PET_NODE_RANK"] == "0"
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"} & set(first)


def test_torchrun_starts_as_many_processes_as_were_asked_for(make_job):
    (env,) = _environments(make_job("torchrun", "train.py", tasks_per_node=4))
    assert env["PET_NPROC_PER_NODE"] == "4"
    (env,) = _environments(make_job("torchrun", "train.py", nodes=2, launch="once"))
    assert env["PET_NNODES"] == "1", "nobody else will come to the rendezvous"
    (env,) = _environments(make_job("torchrun", "train.py"))
    assert env["PET_NPROC_PER_NODE"] == "1"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("torchrun", "x.py"), True),
        (("/opt/venv/bin/torchrun", "x.py"), True),
        (("python", "-m", "torch.distributed.run", "x.py"), True),
        (("/usr/bin/python3.11", "-u", "-m", "torch.distributed.run"), True),
        (("python", "-m", "torch.distributed.launch"), True),
        (("python", "train.py", "-m", "torch.distributed.run"), False),
        (("python", "-m"), False),
        (("sh", "-c", "torchrun x.py"), False),
        ((), False),
    ],
)
def test_which_commands_are_torchrun(command, expected):
    assert is_torchrun(command) is expected


def test_a_job_knows_itself(make_job):
    array = ArrayMembership("arr", "train", 4, 10)
    job = make_job("train", devices=(("GPU-a",),), array=array, time_limit_seconds=60, attempt=2)
    (env,) = _environments(job)
    own = {name[8:]: value for name, value in env.items() if name.startswith("MLSCHED_")}
    assert own == {
        "JOB_ID": "job-1",
        "NAME": "train-7",
        "ATTEMPT": "2",
        "ARRAY_INDEX": "4",
        "NODE_RANK": "0",
        "NUM_NODES": "1",
        "NODE_IPS": "127.0.0.1",
        "GPUS_PER_NODE": "1",
        "CHECKPOINT_DIR": "/jobs/job-1/checkpoints",
        "END_TIME": "1000060",
        "GRACE_SECONDS": "30",
        "PROGRESS_FILE": "/jobs/job-1/1/progress.json",
        "METRICS_FILE": "/jobs/job-1/1/metrics.json",
        "ATTEMPT_DIR": "/jobs/job-1/1",
    }


def test_a_job_without_a_limit_or_an_array_is_told_of_neither(make_job):
    (env,) = _environments(make_job("train"))
    assert not {"MLSCHED_END_TIME", "MLSCHED_ARRAY_INDEX"} & set(env)


def test_a_gang_finds_its_token_and_never_that_of_an_outer_job(make_job):
    job = make_job("gang", nodes=2, gang_token=True, env={"MLSCHED_GANG_TOKEN": "stale"})
    context = replace(CONTEXT, gang_token="5ec3e7")
    found = [build_environment(job, one, context, 2) for one in plan_processes(job)]
    assert [env["MLSCHED_GANG_TOKEN"] for env in found] == ["5ec3e7", "5ec3e7"]
    assert "MLSCHED_GANG_TOKEN" not in _environments(job)[0]
