"""At a terminal: hints that work, colours, and a screen that no job's output can control."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

DEADLINE_S = 60


class Terminal:
    """A command line on a pseudo-terminal of its own."""

    def __init__(self, home, *words, env=None):
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            home.command(*words), env={**home.env, **(env or {})}, cwd=home.path, stdin=slave,
            stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def read_until(self, found: str) -> str:
        """Read until a text appears; "" reads to the end."""
        end = time.monotonic() + DEADLINE_S
        while not found or found not in self.text:
            assert time.monotonic() < end, f"no {found!r} in {self.text!r}"
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if not ready:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:
                data = b""
            if not data:
                assert not found, f"no {found!r} in {self.text!r}"
                break
            self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return self.text

    def finish(self) -> tuple[int, str]:
        text = self.read_until("")
        code = self.process.wait(DEADLINE_S)
        os.close(self._master)
        return code, text

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)


def _hints(text: str) -> list[list[str]]:
    return [line.split()[1:] for line in re.findall(r": (mlsched .*)", text)]


def test_every_hint_of_submit_works(home):
    code, text = Terminal(home, "submit", "--", "echo", "hi").finish()
    assert code == 0
    assert text.startswith("echo-")
    hints = _hints(text)
    assert [hint[0] for hint in hints] == ["logs", "why"]
    for hint in hints:
        assert home.run(*hint).returncode == 0


def test_every_hint_of_a_failed_run_works(home):
    code, text = Terminal(home, "run", "--", "false").finish()
    assert code == 1
    hints = _hints(text)
    assert hints
    for hint in hints:
        assert home.run(*hint).returncode == 0


def test_a_script_gets_no_hints(home):
    assert home.run("submit", "--", "true").stderr == b""


def test_ctrl_c_typed_at_the_terminal_leaves_the_job_running(home):
    terminal = Terminal(home, "run", "--name", "typed", "--", "sh", "-c", "echo up; sleep 60")
    terminal.read_until("up")
    os.killpg(terminal.process.pid, signal.SIGINT)
    code, text = terminal.finish()
    assert code == 130
    assert "typed goes on" in text
    assert home.state("typed") == "RUNNING"
    for hint in _hints(text):
        if hint[0] == "cancel":
            assert home.run(*hint, "--grace", "0").returncode == 0


def test_logs_cannot_control_the_terminal_unless_raw(home):
    name = home.submit("--", "printf", r"\033]0;owned\007\033[2J\n")
    home.run("wait", name)
    _, shown = Terminal(home, "logs", name).finish()
    assert "\x1b" not in shown
    assert "^[]0;owned^G^[[2J" in shown
    _, raw = Terminal(home, "logs", name, "--raw").finish()
    assert "\x1b]0;owned\x07" in raw
    assert b"\x1b]0;owned\x07" in home.run("logs", name).stdout


@pytest.mark.parametrize(
    ("env", "words", "colour"),
    [
        ({}, [], True),
        ({"NO_COLOR": "1"}, [], False),
        ({"TERM": "dumb"}, [], False),
        ({}, ["--no-color"], False),
    ],
)
def test_tables_have_colours_at_a_terminal_only(home, env, words, colour):
    name = home.submit("--", "true")
    home.run("wait", name)
    _, text = Terminal(home, "ls", "--all", *words, env=env).finish()
    assert ("\x1b[32mSUCCEEDED\x1b[0m" in text) is colour
    assert b"\x1b" not in home.run("ls", "--all", *words).stdout


def test_force_color_colours_a_pipe(home):
    name = home.submit("--", "true")
    home.run("wait", name)
    assert b"\x1b[32m" in home.run("ls", "--all", env={"FORCE_COLOR": "1"}).stdout


def test_cancelling_several_jobs_asks_first_and_no_is_no(home):
    names = [home.submit("-l", "ask=1", "--", "sleep", "60") for _ in range(2)]
    terminal = Terminal(home, "cancel", "-l", "ask=1")
    terminal.read_until("Cancel 2 jobs")
    terminal.type(b"n\n")
    code, _ = terminal.finish()
    assert code != 0
    assert all(home.state(name) not in ("CANCELLED",) for name in names)
    code, text = Terminal(home, "cancel", "-l", "ask=1", "--no-input", "--grace", "0").finish()
    assert code == 0
    assert "Cancel 2 jobs" not in text
    assert home.run("wait", *names).returncode == 103


def test_top_redraws_until_ctrl_c(home):
    terminal = Terminal(home, "top", "--interval", "0.2")
    terminal.read_until("CPUs [")
    os.killpg(terminal.process.pid, signal.SIGINT)
    code, text = terminal.finish()
    assert code == 0
    assert "Traceback" not in text


def test_ls_watch_redraws_until_ctrl_c(home):
    terminal = Terminal(home, "ls", "-w")
    terminal.read_until("\x1b[2J")
    os.killpg(terminal.process.pid, signal.SIGINT)
    code, text = terminal.finish()
    assert code == 130
    assert "Traceback" not in text
