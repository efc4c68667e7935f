from __future__ import annotations

import pytest

from mlsched.errors import SpecError
from mlsched.model.specs import Dependency, JobSpec, StopSignal
from mlsched.specs.documents import JobDocument
from mlsched.specs.flags import FLAGS, apply_flags, apply_flags_to_document, pair_words

PROGRAM = JobSpec(command=("true",))


def fields_of(*pairs: tuple[str, str], spec: JobSpec = PROGRAM) -> dict[str, object]:
    changed = apply_flags(spec, pairs, {"HOME": "/home/ada"})
    return {
        name: getattr(changed, name)
        for name in JobSpec.__struct_fields__
        if getattr(changed, name) != getattr(PROGRAM, name)
    }


@pytest.mark.parametrize(
    ("flag", "text", "expected"),
    [
        ("--gpus", "2", {"gpus_per_node": 2}),
        ("-g", "H100:8", {"gpus_per_node": 8, "gpu_model": "H100"}),
        ("gpus", "H100-80GB-HBM3", {"gpus_per_node": 1, "gpu_model": "H100-80GB-HBM3"}),
        ("-g", "80GB:2", {"gpus_per_node": 2, "gpu_memory_min_bytes": 80 * 10**9}),
        ("-g", "40GiB", {"gpus_per_node": 1, "gpu_memory_min_bytes": 40 << 30}),
        ("-g", "1g.10gb:3", {"gpus_per_node": 3, "gpu_model": "1g.10gb", "mig": True}),
        ("-g", "1g.10gb", {"gpus_per_node": 1, "gpu_model": "1g.10gb", "mig": True}),
        ("--gpus-per-task", "1", {"gpus_per_task": 1}),
        ("--cpus", "0.5", {"milli_cpus_per_task": 500}),
        ("--memory", "64G", {"memory_per_node": 64 << 30}),
        ("--mem", "all", {"memory_per_node": "all"}),
        ("-N", "2", {"nodes": 2}),
        ("--ntasks", "4", {"tasks": 4}),
        ("--tasks-per-node", "8", {"tasks_per_node": 8}),
        ("--launch", "once", {"launch": "once"}),
        ("--constraint", "v100|a100", {"constraint": "v100|a100"}),
        ("--image", "busybox:1", {"image": "busybox:1"}),
        ("--layer", "data", {"layer": "data"}),
        ("--node-selector", "zone=a", {"node_selector": {"zone": "a"}}),
        ("-t", "90", {"time_limit_seconds": 5400}),
        ("-t", "1h30m", {"time_limit_seconds": 5400}),
        ("-t", "unlimited", {}),
        ("-q", "fast", {"queue": "fast"}),
        ("--partition", "a,b", {"queue": "a", "queues": ("b",)}),
        ("--priority", "high", {"priority": 100}),
        ("--priority", "-7", {"priority": -7}),
        ("-l", "team=nlp", {"labels": {"team": "nlp"}}),
        ("-e", "A=b=c", {"env": {"A": "b=c"}}),
        ("-e", "HOME", {"env": {"HOME": "/home/ada"}}),
        ("-D", "/data", {"workdir": "/data"}),
        ("--output-file", "log/%x.out", {"output": "log/%x.out"}),
        ("--after", "a:any,b", {"after": (Dependency("a", "any"), Dependency("b", "ok"))}),
        ("--retries", "3", {"retries": 3}),
        ("--requeue", "", {"requeue": True}),
        ("--signal", "B:SIGUSR1@9", {"signal": StopSignal("USR1", 9, "shell")}),
        ("--grace", "2m", {"grace_seconds": 120}),
        ("--grace", "0", {"grace_seconds": 0}),
    ],
)
def test_a_flag_sets_its_field(flag: str, text: str, expected: dict[str, object]) -> None:
    assert fields_of((flag, text)) == expected


@pytest.mark.parametrize(
    ("flag", "text", "word"),
    [
        ("--gpuz", "1", "Did you mean --gpus"),
        ("--gpus", "H100:0.5", "MIG"),
        ("--gpus", "0.5", "MIG"),
        ("--gpus", "-1", "--gpus"),
        ("--gpus", "two words:\x1b[31m", "x1b"),
        ("--nodes", "two", "whole number"),
        ("--memory", "lots", "size"),
        ("--time", "tomorrow", "time"),
        ("--grace", "30", "unit"),
        ("--priority", "urgent", "low, normal or high"),
        ("--env", "A", "NAME=VALUE"),
        ("--label", "=x", "NAME=VALUE"),
        ("--signal", "USR9", "signal"),
        ("--array", "9-1", "indices"),
        ("--array", "0-99999", "10000"),
        ("--array", "1-5%0", "%"),
        ("--after", "a:never", "ok, any or fail"),
        ("--launch", "twice", "each or once"),
        ("--name", "x", "flag of the spec"),
    ],
)
def test_a_value_that_cannot_be_read_is_told(flag: str, text: str, word: str) -> None:
    with pytest.raises(SpecError) as caught:
        apply_flags(PROGRAM, [(flag, text)])
    told = caught.value.message + caught.value.hint
    assert word in told
    assert told.isprintable()


def test_flags_add_to_or_replace_what_a_file_says() -> None:
    """A flag wins over a file; env, labels and dependencies add up."""
    file = JobSpec(
        command=("true",),
        env={"A": "1", "B": "1"},
        memory_per_cpu=1 << 30,
        gpus=8,
        gpu_model="V100",
        after=(Dependency("a"),),
    )
    changed = apply_flags(
        file, [("-e", "B=2"), ("--memory", "2G"), ("--gpus", "1"), ("--after", "b"), ("-N", "1")]
    )
    assert changed.env == {"A": "1", "B": "2"}
    assert (changed.memory_per_cpu, changed.memory_per_node) == (0, 2 << 30)
    assert (changed.gpus, changed.gpus_per_node, changed.gpu_model) == (0, 1, "")
    assert [one.job for one in changed.after] == ["a", "b"]


def test_the_name_is_set_on_the_document_and_must_be_legal() -> None:
    document = JobDocument(PROGRAM)
    named = apply_flags_to_document(document, [("--name", "train"), ("-g", "1")])
    assert named.metadata.name == "train"
    assert named.spec.gpus_per_node == 1
    with pytest.raises(SpecError) as caught:
        apply_flags_to_document(document, [("--name", "Train_Seg")])
    assert "train-seg" in caught.value.hint
    with pytest.raises(SpecError) as caught:
        apply_flags_to_document(document, [("-n", "4")])
    assert "--tasks 4" in caught.value.hint


def test_words_become_flags_as_on_a_command_line() -> None:
    words = ["--gpus=2", "-t", "2h", "-qfast", "--requeue", "--env", "A=b", "-N", "2"]
    assert list(pair_words(words, "line 1")) == [
        ("--gpus", "2"),
        ("-t", "2h"),
        ("-q", "fast"),
        ("--requeue", ""),
        ("--env", "A=b"),
        ("-N", "2"),
    ]
    for wrong, word in ((["x"], "a flag"), (["--gpus"], "needs a value"), (["--gpu=1"], "--gpus")):
        with pytest.raises(SpecError) as caught:
            list(pair_words(wrong, "line 1"))
        assert word in caught.value.message + caught.value.hint


def test_no_two_flags_share_a_name_and_each_sets_a_field() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))
    known = {*JobSpec.__struct_fields__, "metadata.name"}
    assert {flag.field for flag in FLAGS} <= known
