from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlsched.errors import SpecError
from mlsched.model.specs import ArraySpec, Dependency, JobSpec, Metadata, StopSignal, Toleration
from mlsched.specs.documents import JobDocument, load_document, parse_document, to_document
from mlsched.specs.limits import SIGNAL_NAMES, check_name, clean_name
from mlsched.specs.trees import check_tree, parse_tree, to_yaml

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
names = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
labels = st.dictionaries(names, names, max_size=3)
env_names = texts.filter(lambda name: name and "=" not in name)
sizes = st.integers(0, 2**60)
memory = st.sampled_from(["memory_per_node", "memory_per_cpu", "memory_per_gpu"]).flatmap(
    lambda field: st.fixed_dictionaries({field: sizes})
)
gpus = st.sampled_from(["gpus_per_node", "gpus", "gpus_per_task"]).flatmap(
    lambda field: st.fixed_dictionaries({field: st.integers(0, 1000)})
)
programs = st.one_of(
    st.fixed_dictionaries({"command": st.lists(texts, min_size=1, max_size=4).map(tuple)}).filter(
        lambda program: bool(program["command"][0])
    ),
    st.fixed_dictionaries(
        {
            "script": texts.map(lambda text: "#!/bin/sh\n" + text.replace("\r\n", "\n")),
            "command": st.lists(texts, max_size=3).map(tuple),
        }
    ),
)
arrays = st.builds(
    ArraySpec,
    st.one_of(
        st.lists(st.integers(0, 5000), min_size=1, max_size=20, unique=True).map(sorted).map(tuple),
        st.builds(
            lambda first, step, size: tuple(range(first, first + step * size, step)),
            st.integers(0, 100),
            st.integers(1, 9),
            st.integers(1, 50),
        ),
    ),
    st.integers(0, 100),
)
effects = st.sampled_from(["", "NoSchedule", "PreferNoSchedule", "NoExecute"])
tolerations = st.one_of(
    st.builds(Toleration, names, st.just("Equal"), st.one_of(st.just(""), names), effects),
    st.builds(Toleration, st.one_of(st.just(""), names), st.just("Exists"), st.just(""), effects),
)
others = st.fixed_dictionaries(
    {},
    optional={
        "env": st.dictionaries(env_names, texts, max_size=3),
        "workdir": texts,
        "output": texts,
        "nodes": st.integers(1, 50),
        "tasks_per_node": st.integers(1, 50),
        "launch": st.sampled_from(["each", "once"]),
        "milli_cpus_per_task": st.integers(1, 64_000),
        "milli_cpus_per_gpu": st.integers(0, 64_000),
        "gpu_model": st.sampled_from(["", "H100", "NVIDIA A100-SXM4-80GB", "1g.10gb"]),
        "gpu_memory_min_bytes": sizes,
        "constraint": st.sampled_from(["", "v100|a100"]),
        "image": st.sampled_from(
            ["", "busybox", "registry.example.org:5000/a/b:1.2", "a@sha256:0"]
        ),
        "layer": st.one_of(st.just(""), names),
        "node_selector": labels,
        "tolerations": st.lists(tolerations, max_size=3).map(tuple),
        "env_secrets": st.lists(names, max_size=3).map(tuple),
        "queue": names,
        "priority": st.integers(-1_000_000, 1_000_000),
        "time_limit_seconds": st.integers(0, 10**8),
        "grace_seconds": st.integers(0, 86_400),
        "signal": st.builds(
            StopSignal,
            st.sampled_from(SIGNAL_NAMES),
            st.integers(0, 65_535),
            st.sampled_from(["steps", "shell"]),
        ),
        "array": arrays,
        "after": st.lists(
            st.builds(Dependency, names, st.sampled_from(["ok", "any", "fail"])), max_size=3
        ).map(tuple),
        "retries": st.integers(0, 1000),
        "requeue": st.booleans(),
        "gang_token": st.booleans(),
        "labels": labels,
    },
)


@st.composite
def documents(draw: st.DrawFn) -> JobDocument:
    fields = draw(programs) | draw(memory) | draw(gpus) | draw(others)
    others_than = {"default", fields.get("queue", "default")}
    queues = draw(st.lists(names.filter(lambda q: q not in others_than), max_size=2, unique=True))
    metadata = Metadata(
        name=draw(st.one_of(st.just(""), names)),
        namespace=draw(st.one_of(st.just(""), names)),
        annotations=draw(st.dictionaries(names, texts, max_size=2)),
    )
    return JobDocument(JobSpec(**fields, queues=tuple(queues)), metadata)


@given(documents())
def test_a_document_that_was_written_reads_back_as_the_same_job(document: JobDocument) -> None:
    """``show -o yaml`` can be submitted again and means the very same."""
    written = to_document(document.spec, document.metadata)
    assert load_document(written) == document
    assert parse_document(json.dumps(written)) == document
    assert parse_document(to_yaml(written)) == document


lines = st.lists(st.text("ab \t#-:'", max_size=6), min_size=1, max_size=5).map("\n".join)
scalars = st.one_of(lines, st.none(), st.booleans(), st.integers(-(2**63) + 1, 2**63 - 1), texts)
finite = st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    scalars | finite,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@example({"\x85": {"": "a\n"}})
@example({"k" * 200: {"script": "a\nb\n"}})
@given(trees)
def test_written_yaml_reads_back_as_the_same_values(tree: object) -> None:
    check_tree(tree)
    assert parse_tree(to_yaml(tree)) == tree


@given(st.text(max_size=200))
def test_any_text_gives_a_job_or_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        parse_document(text)


def _is_legal(name: str) -> bool:
    try:
        check_name(name)
    except SpecError:
        return False
    return True


@settings(max_examples=300)
@given(st.text(max_size=200))
def test_a_cleaned_name_is_empty_or_legal(text: str) -> None:
    cleaned = clean_name(text)
    assert not cleaned or _is_legal(cleaned)
    assert clean_name(cleaned) == cleaned


fields = st.sampled_from(sorted(set(JobSpec.__struct_encode_fields__) | {"cpusPerTask", "args"}))


@given(st.dictionaries(fields, trees, max_size=4))
def test_any_value_in_any_field_gives_a_job_or_a_spec_error(spec: dict[str, object]) -> None:
    document = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": spec}
    error, loaded = _try_to_load(document)
    if loaded is not None:
        assert load_document(to_document(loaded.spec, loaded.metadata)) == loaded
    else:
        assert error.isprintable()
        assert len(error) < 500


def _try_to_load(document: dict[str, object]) -> tuple[str, JobDocument | None]:
    try:
        return "", load_document(document)
    except SpecError as error:
        return error.message, None
