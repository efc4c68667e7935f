from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlsched.errors import SpecError
from mlsched.model.specs import ArraySpec, Dependency, JobSpec, StopSignal
from mlsched.specs.documents import (
    JobDocument,
    load_document,
    parse_document,
    to_document,
    to_yaml,
)

Load = Callable[..., JobDocument]

GIB = 1 << 30


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("command", ["a b", "c"], {"command": ("a b", "c")}),
        ("command", "python train.py --x 'a b'", {"command": ("python", "train.py", "--x", "a b")}),
        ("command", "echo '$HOME | x' \\$5", {"command": ("echo", "$HOME | x", "$5")}),
        ("args", ["x"], {"command": ("true", "x")}),
        ("env", {"A": "1"}, {"env": {"A": "1"}}),
        ("cpusPerTask", 2, {"milli_cpus_per_task": 2000}),
        ("cpusPerTask", 0.5, {"milli_cpus_per_task": 500}),
        ("cpusPerTask", "250m", {"milli_cpus_per_task": 250}),
        ("cpusPerGpu", "4", {"milli_cpus_per_gpu": 4000}),
        ("memoryPerNode", "64Gi", {"memory_per_node": 64 * GIB}),
        ("memoryPerNode", 1024, {"memory_per_node": 1024}),
        ("memoryPerNode", "all", {"memory_per_node": "all"}),
        ("memoryPerCpu", "2G", {"memory_per_cpu": 2 * GIB}),
        ("gpuMemoryMin", "80GB", {"gpu_memory_min_bytes": 80 * 10**9}),
        ("gpuMemoryMin", "75Gi", {"gpu_memory_min_bytes": 75 * GIB}),
        ("queues", ["a", "b"], {"queue": "a", "queues": ("b",)}),
        ("queues", ["a"], {"queue": "a"}),
        ("priority", "low", {"priority": -100}),
        ("priority", 7, {"priority": 7}),
        ("timeLimitSeconds", 90, {"time_limit_seconds": 90}),
        ("timeLimit", "2h", {"time_limit_seconds": 7200}),
        ("timeLimit", "12:30:00", {"time_limit_seconds": 45_000}),
        ("signal", "USR2@120", {"signal": StopSignal("USR2", 120, "steps")}),
        ("signal", {"name": "10", "to": "shell"}, {"signal": StopSignal("USR1", 60, "shell")}),
        ("array", "0-2%2", {"array": ArraySpec((0, 1, 2), 2)}),
        ("array", {"last": 2}, {"array": ArraySpec((0, 1, 2))}),
        ("array", {"first": 1, "step": 2, "count": 3}, {"array": ArraySpec((1, 3, 5))}),
        ("array", {"indices": [5, 1, 5]}, {"array": ArraySpec((1, 5))}),
        ("after", ["a", "b:any"], {"after": (Dependency("a"), Dependency("b", "any"))}),
        ("after", [{"job": "a[3]"}], {"after": (Dependency("a[3]"),)}),
        ("labels", {"team": "nlp"}, {"labels": {"team": "nlp"}}),
    ],
)
def test_a_field_is_read(load: Load, field: str, value: Any, expected: dict[str, Any]) -> None:
    spec = load(**{field: value}).spec
    base = JobSpec(command=("true",))
    changed = {
        name: getattr(spec, name)
        for name in JobSpec.__struct_fields__
        if getattr(spec, name) != getattr(base, name)
    }
    assert changed == expected


@pytest.mark.parametrize(
    ("field", "value", "where", "word"),
    [
        ("gpuPerNode", 1, "spec", "Did you mean gpusPerNode"),
        ("gpus_per_node", 1, "spec", "Did you mean gpusPerNode"),
        ("milliCpusPerTask", 1, "spec", "cpusPerTask"),
        ("x\x1b[31m" * 50, 1, "spec", "x1b"),
        ("gpusPerNode", "two", "spec.gpusPerNode", "whole number"),
        ("gpusPerNode", True, "spec.gpusPerNode", "found true"),
        ("gpusPerNode", 1.0, "spec.gpusPerNode", "whole number"),
        ("gpusPerNode", None, "spec.gpusPerNode", "found null"),
        ("gpusPerNode", [1], "spec.gpusPerNode", "a list of 1"),
        ("nodes", 0, "spec.nodes", "from 1 to 10000"),
        ("nodes", 10**30, "document", "64 bits"),
        ("nodes", 10_001, "spec.nodes", "10000"),
        ("tasks", 100_001, "spec.tasks", "100000"),
        ("retries", 1001, "spec.retries", "1000"),
        ("retries", -1, "spec.retries", "0 to 1000"),
        ("env", {"A": 1}, "spec.env.A", "Quote it: '1'"),
        ("env", {"A": True}, "spec.env.A", "Quote it"),
        ("env", {"A": None}, "spec.env.A", "null"),
        ("env", ["A=1"], "spec.env", "an object"),
        ("command", "echo a | wc", "spec.command", "[sh, -c"),
        ("command", "echo $HOME", "spec.command", "'$'"),
        ("command", 'echo "$HOME"', "spec.command", "'$'"),
        ("command", "a && b", "spec.command", "'&'"),
        ("command", "a\nb", "spec.command", "spec.script"),
        ("command", "echo 'a", "spec.command", "quotes"),
        ("command", "", "spec", "nothing to run"),
        ("command", [""], "spec.command[0]", "program"),
        ("command", ["a", 1], "spec.command[1]", "Quote it: '1'"),
        ("memoryPerNode", 0, "spec.memoryPerNode", "size"),
        ("memoryPerNode", "-1G", "spec.memoryPerNode", "size"),
        ("memoryPerNode", True, "spec.memoryPerNode", "size"),
        ("cpusPerTask", "lots", "spec.cpusPerTask", "number"),
        ("cpusPerTask", [1], "spec.cpusPerTask", "number"),
        ("timeLimit", 90, "spec.timeLimit", "unit"),
        ("timeLimit", "90", "spec.timeLimit", "unit"),
        ("timeLimit", "soon", "spec.timeLimit", "time"),
        ("priority", "urgent", "spec.priority", "low, normal or high"),
        ("priority", 10**7, "spec.priority", "1000000"),
        ("signal", "NOPE", "spec.signal", "signal"),
        ("signal", {"nam": "TERM"}, "spec.signal", "Did you mean name"),
        ("array", "0-99999", "spec.array", "10000"),
        ("array", {"last": 10**9}, "spec.array", "4000000"),
        ("array", {"first": 5, "last": 1}, "spec.array", "first not above"),
        ("array", {"indices": []}, "spec.array", "elements"),
        ("array", {"indices": [-1]}, "spec.array", "indices from 0"),
        ("array", {"last": 9, "count": 9}, "spec.array.count", "10"),
        ("array", {"last": 9, "indices": [1]}, "spec.array", "either"),
        ("array", {}, "spec.array", "last or count"),
        ("after", "a", "spec.after", "brackets"),
        ("after", ["a:never"], "spec.after[0]", "ok, any or fail"),
        ("after", ["../x"], "spec.after[0]", "name or id"),
        ("after", [{"jbo": "a"}], "spec.after[0]", "Did you mean job"),
        ("launch", "twice", "spec.launch", "each or once"),
        ("requeue", "yes", "spec.requeue", "true or false"),
        ("labels", {"a b": "c"}, "spec.labels", "example.org/team"),
        ("labels", {"a": "x" * 64}, "spec.labels.a", "63"),
        ("queue", "a/b", "spec.queue", "name"),
        ("queues", ["a", "b", "b"], "spec.queues", "twice"),
        ("gpuModel", "H100; rm", "spec.gpuModel", "GPU models"),
        ("mig", True, "spec.mig", "1g.10gb"),
    ],
)
def test_a_fault_is_told_with_its_place_and_what_is_allowed(
    load: Load, field: str, value: Any, where: str, word: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(**{field: value})
    error = caught.value
    assert error.message.startswith(f"{where}")
    assert word in error.message + error.hint
    assert (error.message + error.hint).isprintable()
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"command": ["a"], "script": "#!/bin/sh\n"}, "exclude each other"),
        ({"timeLimit": "1h", "timeLimitSeconds": 1}, "say the same"),
        ({"memoryPerNode": 1, "memoryPerGpu": 1}, "exclude each other"),
        ({"nodes": 2, "tasks": 1}, "cannot fill"),
        ({"nodes": 2, "tasksPerNode": 2, "tasks": 5}, "tasksPerNode is 4"),
        ({"gpus": 4, "gpusPerNode": 1}, "gpusPerNode x nodes is 1"),
        ({"gpus": 4, "gpusPerTask": 1}, "gpusPerTask x tasks is 1"),
        ({"gpusPerNode": 1, "gpusPerTask": 1, "tasks": 4}, "share"),
        ({"script": "echo"}, "shebang"),
        ({"script": "#!/bin/sh\r\necho\r\n"}, "line end"),
        ({"script": "#!/bin/sh\n" + "x" * 300_000}, "bytes"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    load: Load, spec: dict[str, Any], word: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(**spec)
    assert word in caught.value.message


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({}, "apiVersion"),
        ({"apiVersion": "v1", "kind": "Pod"}, "mlsched.io/v1alpha1"),
        ({"apiVersion": "mlsched.io/v1alpha1", "kind": "Job"}, "MLJob"),
        ({"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob"}, "spec"),
        ({"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "sepc": {}}, "spec"),
        ({"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": []}, "spec"),
        ({"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "metadata": []}, "metadata"),
    ],
)
def test_what_is_no_mljob_is_told_so(document: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_document(document)
    assert word in caught.value.message + caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "42", "just words", "- a\n- b"])
def test_a_text_that_is_no_document_is_told_how_one_begins(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_document(text, source="job.yaml")
    assert caught.value.message.startswith("job.yaml")
    assert "apiVersion" in caught.value.hint


@pytest.mark.parametrize(
    ("array", "written"),
    [
        (ArraySpec((0, 1, 2), 2), {"first": 0, "last": 2, "count": 3, "maxParallel": 2}),
        (ArraySpec((7,)), {"first": 7, "last": 7, "count": 1}),
        (ArraySpec((8, 18, 28)), {"indices": [8, 18, 28]}),
        (ArraySpec((0, 5, 10, 15)), {"first": 0, "last": 15, "step": 5, "count": 4}),
        (ArraySpec((1, 2, 4, 8)), {"indices": [1, 2, 4, 8]}),
    ],
)
def test_an_array_is_written_shortly(array: ArraySpec, written: dict[str, Any]) -> None:
    document = to_document(JobSpec(command=("true",), array=array))
    assert document["spec"]["array"] == written
    assert load_document(document).spec.array == array


def test_a_written_document_is_canonical(load: Load) -> None:
    """Integers for quantities, defaults left out, labels where Kubernetes has them."""
    document = load(
        {"name": "train", "labels": {"team": "nlp"}},
        command="python train.py",
        cpusPerTask="1500m",
        memoryPerNode="1Gi",
        timeLimit="1h",
        nodes=1,
        queues=["a", "b"],
        labels={"run": "7"},
    )
    written = to_document(document.spec, document.metadata)
    assert written == {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "metadata": {"name": "train", "labels": {"team": "nlp", "run": "7"}},
        "spec": {
            "command": ["python", "train.py"],
            "cpusPerTask": "1500m",
            "memoryPerNode": GIB,
            "queue": "a",
            "queues": ["a", "b"],
            "timeLimitSeconds": 3600,
        },
    }
    assert load_document(written) == document
    assert parse_document(to_yaml(written)) == document


def test_what_an_author_wrote_out_stays_written_out(load: Load) -> None:
    spec = load(nodes=1, cpusPerTask=1).spec
    named = to_document(spec, named=("nodes", "milli_cpus_per_task"))["spec"]
    assert named == {"command": ["true"], "nodes": 1, "cpusPerTask": 1}


def test_a_script_with_arguments_comes_back(load: Load) -> None:
    document = load(script="#!/bin/sh\necho $1\n", args=["x"])
    assert document.spec.command == ("x",)
    written = to_document(document.spec)
    assert written["spec"] == {"script": "#!/bin/sh\necho $1\n", "args": ["x"]}
    assert load_document(written) == document
