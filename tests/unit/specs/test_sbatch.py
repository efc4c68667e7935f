from __future__ import annotations

from typing import Any

import pytest

from mlsched.errors import SpecError
from mlsched.model.resources import need_of, world_size
from mlsched.model.specs import ArraySpec, Dependency, JobSpec, StopSignal
from mlsched.specs.limits import validate_spec
from mlsched.specs.sbatch import SbatchRequest, read_sbatch

GIB = 1 << 30


def read(*lines: str) -> SbatchRequest:
    head = "".join(f"#SBATCH {line}\n" for line in lines)
    request = read_sbatch(f"#!/bin/bash\n{head}\npython3 train.py\n")
    validate_spec(request.spec)
    return request


def fields(*lines: str) -> dict[str, Any]:
    request = read(*lines)
    return {name: getattr(request.spec, name) for name in request.named}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--nodes=2", {"nodes": 2}),
        ("--nodes 2 --ntasks 8", {"nodes": 2, "tasks": 8}),
        ("-N2 -n8 -c4", {"nodes": 2, "tasks": 8, "milli_cpus_per_task": 4000}),
        ("-c=4", {"milli_cpus_per_task": 4000}),
        ("-n 8 --ntasks-per-node=4", {"tasks": 8, "tasks_per_node": 4, "nodes": 2}),
        ("--tasks-per-node=4", {"tasks_per_node": 4}),
        ("--ntasks-per-n=4", {"tasks_per_node": 4}),
        ("--gpus 8 --gpus-per-node=4", {"gpus": 8, "gpus_per_node": 4, "nodes": 2}),
        ("-G 4 --gpus-per-task=1", {"gpus": 4, "gpus_per_task": 1, "tasks": 4}),
        ("-G a100:2", {"gpus": 2, "gpu_model": "a100"}),
        ("--gres=gpu", {"gpus_per_node": 1}),
        ("--gres=gpu:2", {"gpus_per_node": 2}),
        ("--gres=gpu:0", {"gpus_per_node": 0}),
        ("--gres=gpu:v100", {"gpus_per_node": 1, "gpu_model": "v100"}),
        ("--gres=gpu:3090:2", {"gpus_per_node": 2, "gpu_model": "3090"}),
        ("--gres=gpu:rtx_2080_ti:4", {"gpus_per_node": 4, "gpu_model": "rtx_2080_ti"}),
        ("--gres=gres/gpu:2", {"gpus_per_node": 2}),
        ("--gres=none", {}),
        ("--gres=gpu:1g.10gb:2", {"gpus_per_node": 2, "gpu_model": "1g.10gb", "mig": True}),
        ("--gpus=a100_3g.20gb:1", {"gpus": 1, "gpu_model": "3g.20gb", "mig": True}),
        ("--gres=gpu:1c.2g.20gb:1", {"gpus_per_node": 1, "gpu_model": "1c.2g.20gb", "mig": True}),
        ("--gres=gpu:1 --gpus-per-node=1", {"gpus_per_node": 1}),
        ("--mem=64G", {"memory_per_node": 64 * GIB}),
        ("--mem=64gb", {"memory_per_node": 64 * GIB}),
        ("--mem=2T", {"memory_per_node": 2048 * GIB}),
        ("--mem 4096", {"memory_per_node": 4 * GIB}),
        ("--mem=512K", {"memory_per_node": 1 << 20}),
        ("--mem=0", {"memory_per_node": "all"}),
        ("--mem-per-cpu=2G", {"memory_per_cpu": 2 * GIB}),
        ("--mem-per-gpu=32g", {"memory_per_gpu": 32 * GIB}),
        ("--cpus-per-gpu=8", {"milli_cpus_per_gpu": 8000}),
        ("-t 10", {"time_limit_seconds": 600}),
        ("-t 12:30", {"time_limit_seconds": 750}),
        ("-t 1:02:03", {"time_limit_seconds": 3723}),
        ("-t 2-12", {"time_limit_seconds": 216_000}),
        ("-t 1-12:30", {"time_limit_seconds": 131_400}),
        ("-t 1-12:30:05", {"time_limit_seconds": 131_405}),
        ("-t 0", {"time_limit_seconds": 0}),
        ("-t 00:00:00", {"time_limit_seconds": 0}),
        ("-t UNLIMITED", {"time_limit_seconds": 0}),
        ("--time=infinite", {"time_limit_seconds": 0}),
        ("-p gpu", {"queue": "gpu"}),
        ("-p gpu,long,gpu", {"queue": "gpu", "queues": ("long",)}),
        ("--qos=high", {"priority": 100}),
        ("--qos=low --priority=7", {"priority": 7}),
        ("-A lab_7", {"labels": {"mlsched.io/account": "lab_7"}}),
        ("--chdir=/data", {"workdir": "/data"}),
        ("-D /data", {"workdir": "/data"}),
        ("-o 'a b.out'", {"output": "a b.out"}),
        (r"-o a\ b.out", {"output": "a b.out"}),
        ("-o out.txt -e out.txt", {"output": "out.txt"}),
        ("--export=ALL", {}),
        ("--export=ALL,A=1,B=x=y", {"env": {"A": "1", "B": "x=y"}}),
        ("--array=1-7:2", {"array": ArraySpec((1, 3, 5, 7))}),
        ("-a 0-3,9,2%2", {"array": ArraySpec((0, 1, 2, 3, 9), 2)}),
        ("-d afterok:12:13", {"after": (Dependency("12"), Dependency("13"))}),
        (
            "-d afterany:12,afternotok:a_1",
            {"after": (Dependency("12", "any"), Dependency("a_1", "fail"))},
        ),
        ("--signal=TERM", {"signal": StopSignal("TERM", 60, "steps")}),
        ("--signal=B:SIGUSR1@180", {"signal": StopSignal("USR1", 180, "shell")}),
        ("--signal=RB:12@9", {"signal": StopSignal("USR2", 9, "shell")}),
        ("--requeue", {"requeue": True}),
        ("--requeue --no-requeue", {"requeue": False}),
        ("--no-requeue --requeue", {"requeue": True}),
        ("-C v100|a100", {"constraint": "v100|a100"}),
        ("--open-mode=append --input=/dev/null --begin=now", {}),
        ("-N 1 # -N 9", {"nodes": 1}),
        ("-N 1 #-N 9", {"nodes": 1}),
    ],
)
def test_an_option_means_what_slurm_says(line: str, expected: dict[str, Any]) -> None:
    assert fields(line) == expected
    assert read(line).unsupported == ()
    assert read(line).notes == ()


def test_of_two_equal_options_the_later_holds() -> None:
    assert fields("--time=1", "-t 2", "-N 3 -N 4") == {"time_limit_seconds": 120, "nodes": 4}
    assert fields("-J a", "-J b_c", "-J d") == {}
    assert read("-J a_b", "-J d").metadata.name == "d"
    assert read("-J a_b", "-J d").metadata.annotations == {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--mail-type=END --mail-user a@example.org", ["--mail-type", "--mail-user"]),
        ("-w node[1-4] --exclusive", ["--nodelist (-w)", "--exclusive"]),
        ("-x bad01 -H", ["--exclude (-x)", "--hold (-H)"]),
        ("--nice --exclusive=user -I", ["--nice", "--exclusive", "--immediate (-I)"]),
        ("--gres=nvme:100,gpu:1", ["--gres=nvme"]),
        ("--error=err.txt", ["--error"]),
        ("-o a -e b", ["--error (-e)"]),
        ("--open-mode=truncate", ["--open-mode"]),
        ("--qos=gold", ["--qos"]),
        ("--begin=16:00", ["--begin"]),
        ("--export=NONE", ["--export=NONE"]),
        ("--constraint=[a100*2]", ["--constraint"]),
        ("-A 'a b'", ["--account (-A)"]),
        ("--no-such-option value -N 1", ["--no-such-option"]),
        ("--no-such=\x1b[2J", ["--no-such"]),
        ("-Z x", ["-Z"]),
        ("--gpu=1", ["--gpu"]),
        ("--mail-type=A --mail-type=B", ["--mail-type"]),
    ],
)
def test_an_option_that_is_lacking_is_named(line: str, expected: list[str]) -> None:
    assert list(read(line).unsupported) == expected


def test_what_is_done_otherwise_is_told() -> None:
    assert read("-N 2-4").spec.nodes == 2
    assert "2 nodes" in read("-N 2-4").notes[0]
    assert read("-N 4 -n 1").spec.nodes == 1
    assert "cannot fill" in read("-N 4 -n 1").notes[0]
    assert "'of' is no option" in read("--nodes=2 number of nodes").notes[1]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("--time=tomorrow", "time"),
        ("--time=2h", "time"),
        ("--time=1:2:3:4", "time"),
        ("--time", "needs a value"),
        ("-J", "needs a value"),
        ("hetjob", "hetjob"),
        ("packjob", "packjob"),
        ("--mem=lots", "--mem"),
        ("--mem=1.5G", "--mem"),
        ("--mem=4G --mem-per-cpu=1G", "exclude each other"),
        ("--nodes=two", "--nodes"),
        ("--nodes=0", "nodes"),
        ("-c -1", "--cpus-per-task"),
        ("--gres=gpu:a100:one", "--gres"),
        ("--gres=gpu:a100:1,gpu:v100:1", "one type"),
        ("--gres=gpu:1 --gpus-per-node=2", "another option"),
        ("--array=1-", "array"),
        ("--array=5-1", "indices"),
        ("--array=0-1000000", "10000"),
        ("--array=0-9:0", "array"),
        ("--array=" + "0-9999," * 100 + "1", "10000"),
        ("--dependency=singleton", "afterok"),
        ("--dependency=afterok:1?afterok:2", "afterok"),
        ("--dependency=after:1", "afterok"),
        ("--dependency=aftercorr:1", "afterok"),
        ("--signal=WHAT@1", "signal"),
        ("--signal=TERM@99999", "65535"),
        ("-o 'open", "quote"),
        ('--job-name="open', "quote"),
        ("--output=", "--output"),
        ("-p 'a b'", "queue"),
    ],
)
def test_what_cannot_be_honoured_is_refused(line: str, word: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(line)
    assert word in caught.value.message
    assert caught.value.message.isprintable()


def test_the_head_ends_at_the_first_command() -> None:
    script = (
        "#!/bin/bash\n\n   \n  # a comment\n#SBATCH -N 2\n##SBATCH -N 3\n# SBATCH -N 4\n"
        " #SBATCH -N 5\n#SBATCHING -N 6\nset -e\n#SBATCH -N 7\n"
    )
    assert read_sbatch(script).spec.nodes == 2


def test_a_script_is_kept_and_runs_once() -> None:
    """sbatch starts the script once; the sizes are what its steps may use."""
    request = read("-N 2 --ntasks-per-node=4 -c 2 --gres=gpu:4")
    spec = request.spec
    assert world_size(spec) == 1
    assert spec.script.endswith("python3 train.py\n")
    assert (need_of(spec).milli_cpus, need_of(spec).gpus) == (8000, 4)


@pytest.mark.parametrize(
    ("written", "name", "kept"),
    [
        ("train", "train", None),
        ("train_seg", "train-seg", "train_seg"),
        ("'My Job (v2)'", "my-job-v2", "My Job (v2)"),
        ("..//..", "", "..//.."),
        ("x" * 100, "x" * 63, "x" * 100),
    ],
)
def test_a_job_name_becomes_legal_and_its_text_is_kept(
    written: str, name: str, kept: str | None
) -> None:
    metadata = read(f"--job-name={written}").metadata
    assert metadata.name == name
    assert metadata.annotations.get("mlsched.io/job-name") == kept


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("#SBATCH -N 1\npython3 train.py\n", "shebang"),
        ("", "shebang"),
        ("\n#!/bin/bash\n", "shebang"),
        ("#!/bin/bash\r\n#SBATCH -N 1\r\n", "line end"),
        ("#!/bin/bash\n#SBATCH -N 1\necho a\r\n", "line end"),
        ("#!/bin/bash\n\0", "NUL"),
        ("#!/bin/bash\n" + "#" * 300_000, "bytes"),
    ],
)
def test_a_script_that_could_not_start_is_refused(script: str, word: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_sbatch(script)
    assert word in caught.value.message


def test_a_script_without_options_asks_for_the_default() -> None:
    script = "#!/bin/bash\npython3 train.py\n"
    assert read_sbatch(script).spec == JobSpec(script=script, launch="once")
