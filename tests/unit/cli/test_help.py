"""Help: everywhere, by both names, examples first; every command of the catalogue can be built."""

from __future__ import annotations

import importlib
import json
import shlex

import pytest

from mlsched.cli.catalogue import ALIASES, COMMANDS
from mlsched.cli.help import EXIT_CODES
from mlsched.cli.loading import make_program
from mlsched.version import __version__

OWN = [name for name in COMMANDS if name not in ("gpus", "convert")]


def _nested() -> list[list[str]]:
    found = [[name] for name in OWN]
    for name in OWN:
        module, _, attribute = COMMANDS[name].target.partition(":")
        target = getattr(importlib.import_module(module), attribute)
        if isinstance(target, dict):
            found += [[name, inner] for inner in target]
    return found


@pytest.mark.parametrize("words", _nested(), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(run, words, flag):
    ended = run(*words, flag)
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.startswith(f"Usage: mlsched {' '.join(words)}")


@pytest.mark.parametrize("name", OWN)
def test_examples_stand_before_the_options_and_are_valid_command_lines(run, name):
    module = importlib.import_module(COMMANDS[name].target.partition(":")[0])
    examples = getattr(module, "EXAMPLES", "").strip().splitlines()
    shown = run(name, "--help").out
    for example in examples:
        assert 0 < shown.index(example) < shown.index("Options:")
        words = shlex.split(example, comments=True)
        assert words[0] == "mlsched"
        _parse(words[1 : words.index("|") if "|" in words else None])


def _parse(words: list[str]) -> None:
    """Parse a command line without running it."""
    words = words[: words.index("<")] if "<" in words else words
    program = make_program()
    with program.make_context("mlsched", words[:]) as context:
        name, command, rest = program.resolve_command(context, words)
        command.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases_are_the_same_commands(run, alias, name):
    assert name in COMMANDS
    assert run(alias, "-h").out.splitlines()[1:] == run(name, "-h").out.splitlines()[1:]


def test_the_top_help_lists_every_command_with_its_line(run):
    shown = run("--help").out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in shown
        assert entry.summary in shown
        assert len(f"  convert  {entry.summary}") <= 80


def test_no_command_at_all_shows_the_help(run):
    ended = run()
    assert ended.code == 2
    assert "mlsched run -- python" in ended.out


def test_help_works_as_a_command_too(run):
    assert run("help", "logs").out == run("logs", "--help").out
    assert run("help").out == run("--help").out


def test_exit_codes_are_documented(run):
    shown = run("help", "exit-codes").out
    assert all(str(code) in shown and meaning in shown for code, meaning in EXIT_CODES)
    codes = [row["code"] for row in json.loads(run("help", "exit-codes", "-o", "json").out)]
    assert codes == [0, 1, 2, 100, 101, 102, 103, 104, 130]


@pytest.mark.parametrize("words", [["version"], ["--version"], ["-V"]])
def test_the_version_is_one_line(run, words):
    assert run(*words).out == f"mlsched {__version__}\n"


def test_the_version_as_data(run):
    assert json.loads(run("version", "-o", "json").out)["version"] == __version__
    assert run("version", "-o", "name").out == f"{__version__}\n"


def test_every_flag_of_the_table_is_an_option_of_run_and_submit(run):
    from mlsched.specs.flags import FLAGS

    for command in ("run", "submit"):
        shown = run(command, "--help").out
        for flag in FLAGS:
            assert all(name in shown for name in flag.names)
