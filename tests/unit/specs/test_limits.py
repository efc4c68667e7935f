from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlsched.errors import SpecError
from mlsched.model.specs import JobSpec, Metadata
from mlsched.specs.documents import JobDocument
from mlsched.specs.limits import check_name, clean_name, validate_metadata, validate_spec

Load = Callable[..., JobDocument]

HOSTILE_NAMES = {
    "slash": "a/b",
    "dots": "..",
    "newline": "a\nb",
    "ansi": "\x1b[31mred",
    "bidi": "abc\u202edcba",
    "emoji": "\U0001f600" * 2500,
    "long": "x" * 64,
    "upper case": "Train",
    "space": "a b",
    "nul": "a\0",
    "leading dash": "-a",
    "trailing dash": "a-",
    "underscore": "train_seg",
}


@pytest.mark.parametrize("kind", HOSTILE_NAMES)
def test_a_hostile_name_is_refused_with_a_harmless_echo(load: Load, kind: str) -> None:
    """No control character, no override of direction and no 10 kB of emoji reach a terminal."""
    with pytest.raises(SpecError) as caught:
        load({"name": HOSTILE_NAMES[kind]})
    error = caught.value
    assert error.message.startswith("metadata.name")
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("train_seg", "train-seg"),
        ("Train.py", "train-py"),
        ("../../etc/passwd", "etc-passwd"),
        ("--x--", "x"),
        ("\U0001f600", ""),
        ("a" * 62 + "_b", "a" * 62),
        ("x" * 100_000, "x" * 63),
    ],
)
def test_a_legal_name_is_made_of_any_text(text: str, name: str) -> None:
    assert clean_name(text) == name
    if name:
        check_name(name)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"env": {"": "x"}}, "not empty"),
        ({"env": {"A=B": "x"}}, "'='"),
        ({"env": {"A\0": "x"}}, "NUL"),
        ({"env": {"A": "x\0"}}, "NUL"),
        ({"env": {"A": "x" * 131_070}}, "131071"),
        ({"env": {f"V{n}": "x" * 100_000 for n in range(6)}}, "command and env"),
        ({"command": ["echo", "x" * 131_072]}, "131071"),
        ({"command": ["echo", "a\0b"]}, "NUL"),
        ({"command": ["echo", *["x" * 1000] * 600]}, "command and env"),
        ({"workdir": "x" * 5000}, "4095"),
        ({"output": "a\0"}, "NUL"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_at_submit(
    load: Load, spec: dict[str, Any], word: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(**spec)
    assert word in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"image": "busybox latest"}, "spec.image"),
        ({"image": "-x"}, "spec.image"),
        ({"layer": "GPU"}, "spec.layer"),
        ({"nodeSelector": {"-a": "b"}}, "spec.nodeSelector"),
        ({"nodeSelector": {"a": "b c"}}, "spec.nodeSelector.a"),
        ({"tolerations": [{"value": "x"}]}, "spec.tolerations[0].operator"),
        ({"tolerations": [{"operator": "Exists", "value": "x"}]}, "spec.tolerations[0].value"),
        ({"tolerations": [{"key": "a b"}]}, "spec.tolerations[0].key"),
        ({"tolerations": [{"operator": "Exists"}] * 101}, "spec.tolerations"),
        ({"envSecrets": ["keys", "S3"]}, "spec.envSecrets[1]"),
        ({"envSecrets": ["a..b"]}, "spec.envSecrets[0]"),
        ({"envSecrets": [f"{'a' * 60}.{'b' * 63}.{'c' * 63}.{'d' * 64}"]}, "spec.envSecrets[0]"),
        ({"envSecrets": ["keys\n"]}, "spec.envSecrets[0]"),
        ({"envSecrets": ["keys"] * 101}, "spec.envSecrets"),
    ],
)
def test_what_kubernetes_would_refuse_of_the_place_is_refused(
    load: Load, spec: dict[str, Any], where: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(**spec)
    assert caught.value.message.startswith(f"{where}: ")


def test_the_largest_that_the_kernel_takes_is_taken(load: Load) -> None:
    """``NAME=value`` of 131,071 bytes, and an argument of as many."""
    assert load(env={"A": "x" * (131_071 - 2)}).spec.env
    assert load(command=["echo", "x" * 131_071]).spec.command


def test_a_spec_made_in_python_meets_the_same_limits() -> None:
    with pytest.raises(SpecError, match="UTF-8"):
        validate_spec(JobSpec(command=("echo", "\udcff")))
    with pytest.raises(SpecError, match=r"spec\.cpusPerTask: expected a number from 0\.001"):
        validate_spec(JobSpec(command=("echo",), milli_cpus_per_task=0))
    with pytest.raises(SpecError, match=r"spec\.array"):
        validate_spec(JobSpec(command=("echo",), array=load_array(3, 1)))


def load_array(*indices: int) -> Any:
    from mlsched.model.specs import ArraySpec

    return ArraySpec(indices)


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        (Metadata(namespace="A"), "metadata.namespace"),
        (Metadata(labels={"-a": "b"}), "metadata.labels"),
        (Metadata(labels={"UPPER.org/a": "b"}), "metadata.labels"),
        (Metadata(labels={"a": "b c"}), "metadata.labels"),
        (Metadata(annotations={"a b": "x"}), "metadata.annotations"),
        (Metadata(annotations={"a": "x" * 300_000}), "metadata.annotations"),
        (Metadata(annotations={"a": "x" * 200_000, "b": "x" * 200_000}), "256 KiB"),
    ],
)
def test_metadata_that_kubernetes_would_refuse_is_refused(metadata: Metadata, word: str) -> None:
    with pytest.raises(SpecError) as caught:
        validate_metadata(metadata)
    assert word in caught.value.message


def test_metadata_in_the_syntax_of_kubernetes_is_taken() -> None:
    validate_metadata(
        Metadata(
            "train-1",
            "team-a",
            {"app.kubernetes.io/name": "train", "x": "", "a_b.c": "V1.0_x"},
            {"example.org/note": "any text: \u00e9\n"},
        )
    )
