"""What a command line asks for: commands, files, flags, files of variables, and single fields."""

from __future__ import annotations

import io
import os
import sys

import pytest

from mlsched.cli.loading import make_program
from mlsched.cli.requests import parse_changes, preview_text, read_env_file, read_request
from mlsched.cli.session import Session
from mlsched.errors import SpecError

NO_EXTRAS = {"env_file": None, "set_fields": None, "idempotency_key": None, "dry_run": False}
YAML = """\
apiVersion: mlsched.io/v1alpha1
kind: MLJob
metadata: {name: from-file}
spec: {command: [echo, hello], queue: by-file}
"""


def _request(line, words, flags=(), **extras):
    session = Session(words=line)
    return read_request(session, words, flags, {**NO_EXTRAS, **extras})


def test_words_behind_the_dashes_are_the_command():
    found = _request(["run", "--", "echo", "a b"], ["echo", "a b"])
    assert found.document.spec.command == ("echo", "a b")


def test_a_file_is_a_document(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(YAML)
    found = _request(["submit", str(path)], [str(path)])
    assert found.document.spec.command == ("echo", "hello")
    assert found.document.metadata.name == "from-file"


def test_the_same_file_behind_the_dashes_is_a_command(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(YAML)
    found = _request(["run", "--", str(path)], [str(path)])
    assert found.document.spec.command == (str(path),)


def test_a_script_gets_the_words_behind_it(tmp_path):
    path = tmp_path / "train.sh"
    path.write_text("#!/bin/sh\n#MLSCHED --gpus 2\necho $1\n")
    line = ["submit", str(path), "0.1"]
    found = _request(line, line[1:])
    assert found.document.spec.command == ("0.1",)
    assert found.document.spec.gpus_per_node == 2
    assert found.document.spec.script.startswith("#!/bin/sh")


@pytest.mark.parametrize(
    ("behind", "dry", "words"),
    [
        ([], False, []),
        (["--dry-run"], True, []),
        (["0.1", "--dry-run"], True, ["0.1"]),
        (["--", "--dry-run"], False, ["--dry-run"]),
        (["--dry-run", "0.1", "--", "--lr", "--", "x"], True, ["0.1", "--lr", "--", "x"]),
    ],
)
def test_options_may_stand_behind_a_file_and_its_own_stand_behind_dashes(
    tmp_path, behind, dry, words
):
    path = tmp_path / "train.sh"
    path.write_text("#!/bin/sh\n")
    found = _parse(["submit", str(path), *behind])
    assert found["words"] == [str(path), *words]
    assert found["dry_run"] is dry


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_options_behind_a_command_are_the_commands_own(dashes):
    line = ["tool", "-o", "json", "--dry-run", "-c", "x"]
    found = _parse(["run", "-n", "mine", *dashes, *line])
    assert found["words"] == line
    assert found["flag_name"] == "mine"
    assert found["dry_run"] is False


def _parse(line):
    """The parameters that a command line gives its command."""
    program = make_program()
    with program.make_context("mlsched", line[:]) as context:
        name, command, rest = program.resolve_command(context, line)
        with command.make_context(name, rest, parent=context) as inner:
            return {**inner.params, "words": list(inner.params["words"])}


def test_a_program_is_a_command_although_it_is_a_file():
    found = _request(["run", sys.executable, "-V"], [sys.executable, "-V"])
    assert found.document.spec.command == (sys.executable, "-V")


def test_standard_input_is_a_document(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(YAML.encode())))
    assert _request(["submit", "-"], ["-"]).document.spec.queue == "by-file"


def test_flags_win_over_the_file_and_set_over_flags(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(YAML)
    flags = [("--queue", "by-flag"), ("--gpus", "1")]
    found = _request(["submit", str(path)], [str(path)], flags, set_fields=["queue=by-set"])
    assert found.document.spec.queue == "by-set"
    assert found.document.spec.gpus_per_node == 1


def test_the_config_file_gives_defaults(installation):
    path = installation / "config" / "mlsched" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[defaults]\nqueue = "night"\ntime = "2h"\n')
    spec = _request(["run", "--", "x"], ["x"], [("--time", "1h")]).document.spec
    assert (spec.queue, spec.time_limit_seconds) == ("night", 3600)


def test_an_option_not_known_in_a_script_is_one_warning(tmp_path, capsys):
    path = tmp_path / "job.sh"
    path.write_text("#!/bin/sh\n#SBATCH --mail-type=END --switches=1\n#SBATCH --gpus=1\n")
    _request(["submit", str(path)], [str(path)])
    err = capsys.readouterr().err
    assert err.count("warning:") == 1
    assert "--mail-type" in err
    assert "--switches" in err


def test_what_only_a_cluster_uses_is_taken_and_a_warning_says_so(capsys):
    flags = [("--image", "busybox"), ("--env-secret", "keys"), ("--env-secret", "more,keys")]
    spec = _request(["run", "--", "x"], ["x"], flags).document.spec
    assert (spec.image, spec.env_secrets) == ("busybox", ("keys", "more"))
    assert capsys.readouterr().err.splitlines() == [
        "warning: image is not used on this machine",
        "warning: envSecrets is not used on this machine",
    ]


def test_a_file_of_variables(tmp_path):
    path = tmp_path / "vars.env"
    path.write_text("# comment\n\nA=1\nexport B = 'two words'\nC=\"x=y\"\nD=\n")
    assert read_env_file(str(path)) == [
        ("--env", "A=1"),
        ("--env", "B=two words"),
        ("--env", "C=x=y"),
        ("--env", "D="),
    ]


def test_a_flag_wins_over_the_file_of_variables(tmp_path):
    path = tmp_path / "vars.env"
    path.write_text("A=1\nB=2\n")
    found = _request(["run", "--", "x"], ["x"], [("--env", "A=9")], env_file=[str(path)])
    assert found.document.spec.env == {"A": "9", "B": "2"}


@pytest.mark.parametrize("content", [b"no assignment\n", b"\xff\xfe", b"1A=2\n"])
def test_a_wrong_file_of_variables_names_itself(tmp_path, content):
    path = tmp_path / "vars.env"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"vars\.env"):
        read_env_file(str(path))


def test_values_of_set_are_json_where_they_can_be():
    assert parse_changes(["gpusPerNode=4", "env.LR=0.1", "name=x", "mig=true", "a=[1]"]) == {
        "gpusPerNode": 4,
        "env.LR": "0.1",
        "name": "x",
        "mig": True,
        "a": [1],
    }


def test_a_preview_tells_the_decision_first():
    found = {
        "document": {"kind": "MLJob", "spec": {"command": ["x"]}},
        "starts_now": False,
        "reason": {"code": "WaitingForCapacity", "message": "it needs 8 GPUs of 0"},
        "placement": [],
    }
    lines = preview_text(found).splitlines()
    assert lines[0] == "# would not start now: it needs 8 GPUs of 0"
    found["reason"]["code"] = "NeverFits"
    assert preview_text(found).startswith("# would be refused: it needs 8 GPUs of 0")
    assert lines[1] == "# nothing was submitted"
    placed = {**found, "starts_now": True, "reason": None, "placement": [
        {"node": "box", "gpus": ["GPU-1"], "cpus": 1, "memory_bytes": 0}]}  # fmt: skip
    assert preview_text(placed).splitlines()[0] == "# would start now on box (GPU-1)"


def test_a_preview_of_a_cluster_refuses_nothing_and_says_what_it_cannot_tell():
    found = {
        "document": {"kind": "MLJob", "spec": {"command": ["x"]}},
        "starts_now": False,
        "reason": {"code": "NeverFits", "message": "it needs 8 GPUs of 0"},
        "placement": [],
        "notes": ["you may not list nodes"],
    }
    lines = preview_text(found, is_local=False).splitlines()
    assert lines[:3] == [
        "# would not start now: it needs 8 GPUs of 0",
        "# you may not list nodes",
        "# nothing was submitted",
    ]
    unknown = {**found, "starts_now": None, "reason": {"code": "c", "message": "cannot be told"}}
    assert preview_text(unknown, is_local=False).splitlines()[0] == "# cannot be told"


def test_a_file_of_variables_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "env"
    path.write_text("A=1\n" * (1 << 18) + "B=2\n")
    with pytest.raises(SpecError, match="larger than"):
        read_env_file(str(path))


def test_a_variable_may_have_any_character_but_a_newline(tmp_path):
    path = tmp_path / "env"
    path.write_bytes("A=a\u2028b\x0cc\r\nB=b\x85c\n".encode())
    assert read_env_file(str(path)) == [("--env", "A=a\u2028b\x0cc"), ("--env", "B=b\x85c")]


def test_a_pipe_in_place_of_a_file_is_refused_and_never_a_command(tmp_path):
    """A shell makes one of <(...): no job could run it."""
    os.mkfifo(tmp_path / "63")
    with pytest.raises(SpecError, match="pipe") as caught:
        _request(["submit", str(tmp_path / "63")], [str(tmp_path / "63")])
    assert "Pass '-'" in caught.value.hint
