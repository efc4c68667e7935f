"""Errors: one line of what is wrong, one of what to do, the right exit code, never a traceback."""

from __future__ import annotations

import json
import sys

import pytest

from mlsched.cli.main import main, report, wants_json


@pytest.mark.parametrize(
    ("words", "said", "advice"),
    [
        (["lss"], "there is no command 'lss'", "Did you mean 'ls'?"),
        (["run", "--gpu", "2", "--", "x"], "no such option: --gpu", "--gpus"),
        (["ls", "-o", "jsn"], "there is no form 'jsn'", "Did you mean json?"),
        (["ls", "--state", "RUNING"], "there is no state 'RUNING'", "PENDING, STARTING"),
        (["ls", "--state", ","], "--state: expected states, found ','", "PENDING, STARTING"),
        (["cancel", "--state", " , ", "--yes"], "--state: expected states", "PENDING, STARTING"),
        (["run"], "there is nothing to run", "mlsched run -- python train.py"),
        (["run", "-g", "H100:0.5", "--", "x"], "--gpus", "MIG profile"),
        (["run", "-n", "4", "--", "x"], "-n: expected a name", "--tasks 4 here"),
        (["run", "-n4", "--", "x"], "-n: expected a name", "--tasks 4 here"),
        (["run", "--name", "A b", "--", "x"], "--name", "Such as a-b."),
        (["run", "--retries", "x", "--", "x"], "--retries: expected a whole number", ""),
        (["run", "--set", "novalue", "--", "x"], "--set: expected PATH=VALUE", "gpusPerNode"),
        (["submit", "missing.yaml"], "cannot be read", "apiVersion"),
        (["show"], "missing argument", "mlsched show --help"),
        (["ls", "--limit", "x"], "not a number", "mlsched ls --help"),
        (["wait", "x", "--for", "ever"], "--for: expected done or running", ""),
        (["wait", "x", "--timeout", "5"], "--timeout", "unit"),
        (["show", "\udcff"], "is no UTF-8", ""),
        (["ls", "--queue", "a\udcff"], "is no UTF-8", ""),
        (["submit", "--idempotency-key", "\udcff", "--", "x"], "is no UTF-8", ""),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_exits_2(run, words, said, advice):
    ended = run(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert said.lower() in ended.err.lower()
    assert advice in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("words", [["lss"], ["show"], ["run", "--gpu", "2", "--", "x"], ["run"]])
@pytest.mark.parametrize("form", [["-o", "json"], ["--json"], ["-ojson"], ["--output=json"]])
def test_with_json_asked_for_errors_are_json_too(run, words, form):
    ended = run(*words[:1], *form, *words[1:])
    assert ended.code == 2
    error = json.loads(ended.err)["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["message"]


def test_json_behind_the_dashes_is_the_commands_own():
    assert not wants_json(["run", "--", "tool", "-o", "json", "--json"])
    assert wants_json(["run", "-o", "json", "--", "tool"])
    assert not wants_json(["ls", "-o", "json", "-o", "yaml"])


def test_json_can_be_asked_for_by_the_environment(run, monkeypatch):
    monkeypatch.setenv("MLSCHED_OUTPUT", "json")
    assert json.loads(run("lss").err)["error"]["code"] == "Usage"


@pytest.mark.parametrize("words", [["ls", "-c", "prod"], ["-c", "prod", "ls"]])
def test_a_context_that_does_not_exist_is_an_error(run, words):
    ended = run(*words)
    assert ended.code == 1
    assert "there is no context 'prod'" in ended.err


def test_slurms_meaning_of_c_is_explained(run):
    assert "--cpus 4 here" in run("ls", "-c", "4").err


def test_an_unreachable_service_exits_104(run):
    ended = run("server", "status", "-o", "json")
    assert ended.code == 104
    assert json.loads(ended.err)["error"]["code"] == "Unreachable"


def test_a_wrong_config_file_names_the_key(run, installation):
    path = installation / "config" / "mlsched" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[logs]\nbytes_mx = 1\n")
    ended = run("config", "show")
    assert ended.code == 1
    assert "bytes_mx" in ended.err
    assert "bytes_max" in ended.err


def test_a_message_cannot_control_the_terminal(capsys):
    report({"code": "X", "message": "bad \x1b[31mname\x07", "hint": "\u202e"}, as_json=False)
    assert capsys.readouterr().err == "error: bad \\x1b[31mname\\x07\nhint: \\u202e\n"


def test_a_bug_is_one_line_and_a_file(run, monkeypatch, installation):
    monkeypatch.setattr("mlsched.cli.version.platform", None)
    monkeypatch.setenv("TMPDIR", str(installation))
    monkeypatch.setattr("tempfile.tempdir", None)
    ended = run("version", "-o", "json")
    assert ended.code == 1
    error = json.loads(ended.err)["error"]
    assert error["code"] == "Bug"
    (details,) = installation.glob("mlsched-bug-*.txt")
    assert str(details) in error["hint"]
    assert "Traceback" in details.read_text()


def test_a_reader_that_has_left_ends_a_command_quietly(monkeypatch, capsys):
    def leave(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("mlsched.cli.session.write", leave)
    assert main(["version", "-o", "json"]) == 141
    assert capsys.readouterr().err == ""


def test_an_interrupt_exits_130(monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlsched.cli.session.write", interrupt)
    assert main(["version", "-o", "json"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_standard_input_that_was_closed_is_empty(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    ended = run("submit", "-")
    sys.stdin.close()
    assert (ended.code, ended.out) == (2, "")
    assert "standard input" in ended.err
