"""What holds for every command: colours, hints, forms of output, settings and their sources."""

from __future__ import annotations

import json

import pytest

from mlsched.cli.session import Session


class Terminal:
    def __init__(self, is_terminal: bool) -> None:
        self._is = is_terminal

    def isatty(self) -> bool:
        return self._is


@pytest.mark.parametrize(
    ("environ", "terminal", "option", "expected"),
    [
        ({}, True, False, True),
        ({}, False, False, False),
        ({}, True, True, False),
        ({"NO_COLOR": "1"}, True, False, False),
        ({"TERM": "dumb"}, True, False, False),
        ({"FORCE_COLOR": "1"}, False, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False, False),
    ],
)
def test_colours_follow_the_usual_rules(monkeypatch, environ, terminal, option, expected):
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Session(no_color=option).has_color(Terminal(terminal)) is expected


def test_hints_are_for_terminals_only(capsys):
    Session().hint("next: mlsched ls")
    assert capsys.readouterr().err == ""


def test_quiet_keeps_data_and_drops_words(capsys):
    session = Session(quiet=True)
    session.tell("something happens")
    session.emit({"a": 1}, lambda: "data")
    out, err = capsys.readouterr()
    assert (out, err) == ("data\n", "")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("table", "text\n"),
        ("wide", "text\n"),
        ("json", '{\n  "a": "ü"\n}\n'),
        ("yaml", "a: ü\n"),
        ("name", "n-1\nn-2\n"),
    ],
)
def test_each_form_of_output(capsys, output, expected):
    Session(output).emit({"a": "ü"}, lambda: "text", ["n-1", "n-2"])
    assert capsys.readouterr().out == expected


def test_config_show_says_where_each_setting_comes_from(run, installation, monkeypatch):
    path = installation / "config" / "mlsched" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[logs]\nfiles_max = 2\n[defaults]\nqueue = "night"\ngpus = "1"\n')
    monkeypatch.setenv("MLSCHED_QUEUE", "day")
    rows = {row["name"]: row for row in json.loads(run("config", "show", "-o", "json").out)}
    assert rows["logs.files_max"] == {
        "name": "logs.files_max", "value": 2, "source": "config.toml"}  # fmt: skip
    assert rows["logs.bytes_max"]["source"] == "default"
    assert rows["flag --queue"]["value"] == "day"
    assert rows["flag --queue"]["source"] == "MLSCHED_QUEUE"
    assert rows["flag --gpus"]["source"] == "config.toml, [defaults]"
    assert rows["state_dir"]["source"] == "XDG_STATE_HOME"
    assert run("config", "path").out == f"{path}\n"
    assert json.loads(run("config", "path", "-o", "json").out) == {"path": str(path)}


def test_there_is_one_context(run):
    assert run("context", "ls", "-o", "name").out == "local\n"
    assert run("context", "use", "local").code == 0
    assert run("context", "use", "prod").code == 1
    assert json.loads(run("context", "show", "-o", "json").out)["name"] == "local"


def test_contexts_are_listed_although_the_current_one_is_gone(run, monkeypatch):
    monkeypatch.setenv("MLSCHED_CONTEXT", "gone")
    ended = run("context", "ls", "-o", "json")
    assert (ended.code, [one["current"] for one in json.loads(ended.out)]) == (0, [False])
    assert ended.err == "the current context 'gone' is none of these.\n"
    assert run("context", "show").code == 1


def test_stopping_a_service_that_does_not_run_is_no_error(run):
    ended = run("server", "stop")
    assert ended.code == 0
    assert "does not run" in ended.out


@pytest.mark.parametrize(
    ("asked", "current", "expected"),
    [
        ("", "local", "mlsched logs -f 'grid[0]'"),
        ("local", "prod", "mlsched -c local logs -f 'grid[0]'"),
        ("prod", "local", "mlsched -c prod logs -f team/grid.0"),
        ("", "prod", "mlsched logs -f team/grid.0"),
    ],
)
def test_what_may_be_typed_next_goes_where_this_went(
    installation, monkeypatch, asked, current, expected
):
    contexts = "contexts: [{name: prod, context: {cluster: c}}]"
    (installation / "kubeconfig").write_text(contexts)
    monkeypatch.setenv("KUBECONFIG", str(installation / "kubeconfig"))
    monkeypatch.setenv("MLSCHED_CONTEXT", current)
    job = {"name": "grid[0]", "id": "team/grid.0"}
    assert Session("", asked).next_command("logs -f", job) == expected
