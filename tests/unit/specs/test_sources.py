from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlsched.errors import SpecError
from mlsched.model.specs import Dependency
from mlsched.specs.documents import to_document, to_yaml
from mlsched.specs.sources import FILE_ANNOTATION, Submission, read_submission

DOCUMENT = """\
# yaml-language-server: $schema=mljob.v1alpha1.json
apiVersion: mlsched.io/v1alpha1
kind: MLJob
metadata: {name: train}
spec: {command: python train.py, gpusPerNode: 2}
"""
BATCH = "#!/bin/bash\n#SBATCH -J train_seg --gres=gpu:2 --mail-type=END\n\npython3 train.py $1\n"


def from_stdin(text: str | bytes, *args: str) -> Submission:
    data = text if isinstance(text, bytes) else text.encode()
    return read_submission("-", args, stdin=io.BytesIO(data))


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".txt", ""])
def test_a_document_is_known_by_its_name_or_its_head(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"job{suffix}"
    path.write_text(DOCUMENT)
    job = read_submission(str(path)).document
    assert job.metadata.name == "train"
    assert job.spec.command == ("python", "train.py")
    assert from_stdin(DOCUMENT).document == job


def test_json_is_a_document_too(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(
        '{"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": {"command": ["true"]}}'
    )
    assert read_submission(str(path)).document.spec.command == ("true",)
    assert from_stdin(path.read_text()).document == read_submission(str(path)).document


def test_a_batch_script_keeps_its_text_and_gets_its_arguments(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(BATCH)
    submission = read_submission(str(path), ["--lr", "0.1"])
    job = submission.document
    assert job.spec.script == BATCH
    assert job.spec.command == ("--lr", "0.1")
    assert job.spec.gpus_per_node == 2
    assert job.spec.launch == "once"
    assert job.metadata.name == "train-seg"
    assert job.metadata.annotations == {
        FILE_ANNOTATION: "train.sh",
        "mlsched.io/job-name": "train_seg",
    }
    assert submission.warnings == ("mlsched has no --mail-type: ignored",)


@pytest.mark.parametrize(
    "line", ["srun python train.py", "  time srun -n 2 ./a", "if ! srun x; then"]
)
def test_a_slurm_script_that_calls_srun_is_warned_of(line: str) -> None:
    text = f"#!/bin/bash\n#SBATCH -n 2\n# srun in a comment\necho srun x\n{line}\n"
    (warning,) = from_stdin(text).warnings
    assert warning.startswith("line 5 calls srun, which is not provided")
    assert from_stdin(text.replace(line, "./srun x")).warnings == ()


def test_a_plain_script_needs_no_directives() -> None:
    job = from_stdin("#!/bin/sh\necho hello\n").document
    assert job.spec.script == "#!/bin/sh\necho hello\n"
    assert job.spec.launch == "each"


def test_own_directives_hold_over_those_of_slurm() -> None:
    script = (
        "#!/bin/bash\n#MLSCHED --gpus H100:1 --name mine  # ours\n#SBATCH -J theirs -G 4 -t 10\n"
        "#MLSCHED --env 'A=b c' --after prepare\n##MLSCHED --nodes 9\ntrue\n#MLSCHED --nodes 8\n"
    )
    submission = from_stdin(script)
    spec = submission.document.spec
    assert submission.document.metadata.name == "mine"
    assert (spec.gpus, spec.gpus_per_node, spec.gpu_model) == (0, 1, "H100")
    assert spec.time_limit_seconds == 600
    assert spec.env == {"A": "b c"}
    assert spec.after == (Dependency("prepare"),)
    assert spec.nodes == 1


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("--gpu 1", "Did you mean --gpus"),
        ("--gpus", "needs a value"),
        ("gpus 1", "a flag"),
        ("--time soon", "time"),
        ("--name A/B", "lower-case"),
        ("--env 'A=1", "quote"),
    ],
)
def test_a_wrong_directive_is_an_error(line: str, word: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_stdin(f"#!/bin/sh\n#MLSCHED {line}\ntrue\n")
    assert word in caught.value.message + caught.value.hint


PYTHON = '''\
# /// script
# requires-python = ">=3.11"
#
# [tool.mlsched]
# name = "digits"
# gpusPerNode = 1
# memoryPerNode = "4Gi"
# env = {LR = "0.1"}
# ///
"""Learns."""
'''


def test_a_python_file_says_what_it_needs_in_its_metadata_block(tmp_path: Path) -> None:
    path = tmp_path / "learn.py"
    path.write_text(PYTHON)
    job = read_submission(str(path), ["--fast"]).document
    assert job.spec.command == ("python3", str(path), "--fast")
    assert job.metadata.name == "digits"
    assert job.spec.gpus_per_node == 1
    assert job.spec.memory_per_node == 4 << 30
    assert job.spec.env == {"LR": "0.1"}


def test_an_executable_python_file_runs_by_its_own_first_line(tmp_path: Path) -> None:
    path = tmp_path / "learn.py"
    path.write_text(f"#!/usr/bin/env -S uv run --script\n#MLSCHED --cpus 2\n{PYTHON}")
    job = read_submission(str(path)).document
    assert job.spec.script == path.read_text()
    assert job.spec.gpus_per_node == 1
    assert job.spec.milli_cpus_per_task == 2000


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("gpuPerNode = 1", "gpusPerNode"),
        ("gpusPerNode = '1'", "whole number"),
        ("command = ['x']", "no place"),
        ("name = 'A B'", "metadata.name"),
        ("gpusPerNode = ", "not TOML"),
        ("workdir = 2026-11-01", "date"),
    ],
)
def test_a_wrong_metadata_block_is_an_error(tmp_path: Path, table: str, word: str) -> None:
    path = tmp_path / "learn.py"
    path.write_text(f"# /// script\n# [tool.mlsched]\n# {table}\n# ///\n")
    with pytest.raises(SpecError) as caught:
        read_submission(str(path))
    assert word in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("echo hello\n", "nothing that can be submitted"),
        ("", "nothing that can be submitted"),
        ("#SBATCH -N 1\necho\n", "shebang"),
        ("#MLSCHED --gpus 1\necho\n", "shebang"),
        ("#!/bin/sh\r\necho\r\n", "line end"),
        (b"\xff\xfe#\0!\0", "not UTF-8"),
        (b"#!/bin/sh\n\0", "NUL"),
        ("#!/bin/sh\n" + "x" * 300_000, "256 KiB"),
        ("{" * 1000, "standard input"),
        ("apiVersion: [", "standard input"),
        ("kind: MLJob\n", "apiVersion"),
    ],
)
def test_what_cannot_be_submitted_is_told(text: str | bytes, word: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_stdin(text)
    assert word in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "text", ["# /// script\n" * 15_000, "#\n" * 100_000, " " * 200_000, "#SBATCH \n" * 25_000]
)
def test_a_strange_file_holds_nobody_up(tmp_path: Path, text: str) -> None:
    path = tmp_path / "learn.py"
    path.write_text(text)
    started = time.process_time()
    assert read_submission(str(path)).document.spec.command == ("python3", str(path))
    with pytest.raises(SpecError):
        from_stdin(text)
    assert time.process_time() - started < 0.5


def test_a_document_takes_no_arguments() -> None:
    with pytest.raises(SpecError) as caught:
        from_stdin(DOCUMENT, "--lr")
    assert "spec.args" in caught.value.hint


def test_a_path_that_is_no_readable_file_is_told_at_once(tmp_path: Path) -> None:
    """Neither a pipe without a writer nor an endless device holds anybody up."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    for path, word in (
        (tmp_path, "is a directory"),
        (tmp_path / "missing.sh", "No such file"),
        (fifo, "no regular file"),
        ("/dev/zero", "no regular file"),
        (large, "256 KiB"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        (tmp_path / "missing.sh" / "deeper", "cannot be read"),
    ):
        started = time.process_time()
        with pytest.raises(SpecError) as caught:
            read_submission(str(path))
        assert word in caught.value.message
        assert caught.value.message.isprintable()
        assert time.process_time() - started < 0.5


@pytest.fixture
def no_power() -> Iterator[None]:
    """Without root's right to read everything, whoever runs the tests."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_file_without_permission_is_told(tmp_path: Path, no_power: None) -> None:
    with pytest.raises(SpecError, match="Permission denied"):
        read_submission("/proc/1/environ" if os.geteuid() == 65534 else str(unreadable(tmp_path)))


def unreadable(directory: Path) -> Path:
    path = directory / "job.yaml"
    path.write_text(DOCUMENT)
    path.chmod(stat.S_IWUSR)
    return path


def test_a_converted_script_can_be_submitted_as_the_document_it_became() -> None:
    submission = from_stdin(BATCH)
    job = submission.document
    written = to_yaml(to_document(job.spec, job.metadata, named=submission.named))
    assert from_stdin(written).document == job
