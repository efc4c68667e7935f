"""One service a state directory: how it starts, stays alone, leaves, and refuses."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SERVER = [sys.executable, "-m", "mlsched.server"]


def test_the_first_command_starts_it_and_the_second_finds_it(home: Any) -> None:
    assert home.service_pid() == home.service_pid()


def test_ten_starts_at_once_leave_one_service(home: Any, poll: Any) -> None:
    starts = [
        subprocess.Popen(SERVER, env=home.env, stderr=subprocess.PIPE, text=True) for _ in range(10)
    ]
    pid = poll(lambda: home.service_pid() if home.paths.socket.exists() else None)
    losers = [start for start in starts if start.pid != pid]
    assert [start.wait(timeout=20) for start in losers] == [0] * 9
    home.client().call("stop")
    for start in starts:
        start.wait(timeout=20)
        assert start.stderr is not None
        start.stderr.close()


def test_only_the_user_can_reach_it(home: Any) -> None:
    home.service_pid()
    assert stat.S_IMODE(home.paths.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.paths.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.paths.state_dir.stat().st_mode) == 0o700


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_is_refused_even_when_the_file_modes_would_let_him(home: Any) -> None:
    home.service_pid()
    path = home.paths.socket
    for opened in (path, path.parent, home.runtime):
        opened.chmod(0o777)
    ask = (
        "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        f"s.connect({str(path)!r});"
        's.sendall(b\'{"op": "ping"}\\n\'); print(s.recv(4096).decode())'
    )
    found = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "belongs to user 0" in json.loads(found.stdout)["error"]["message"]


def test_a_socket_left_behind_by_a_dead_service_is_replaced(home: Any) -> None:
    home.kill_service()
    assert home.paths.socket.exists()
    assert home.submit("true")["state"] in ("PENDING", "STARTING")


def test_stopping_it_leaves_jobs_running_and_takes_the_socket_away(home: Any) -> None:
    job = home.submit("sleep", "30")
    home.wait(job["name"], "RUNNING")
    pid = home.service_pid()
    home.client().call("stop")
    home.wait_until_gone(pid)
    assert not home.paths.socket.exists()
    assert home.wait(job["name"], "RUNNING")["attempt"] == 1


def test_it_leaves_when_nothing_is_left_to_do_and_not_before(home: Any) -> None:
    config = home.paths.config_file
    config.parent.mkdir(parents=True)
    config.write_text("[service]\nidle_exit_s = 0.5\n")
    job = home.submit("sh", "-c", f"while [ ! -e {home.path}/go ]; do sleep 0.05; done")
    pid = home.service_pid()
    home.wait(job["name"], "RUNNING")
    (home.path / "go").touch()
    home.wait_until_gone(pid)
    log = home.paths.service_log.read_text()
    assert "idle: nothing is queued or running" in log
    assert home.wait(job["name"])["state"] == "SUCCEEDED"


def test_a_newer_database_is_refused_with_the_reason(home: Any) -> None:
    import apsw

    home.service_pid()
    home.kill_service()
    database = apsw.Connection(str(home.paths.database))
    database.pragma("user_version", 99)
    database.close()
    found = home.run("ls")
    assert found.returncode != 0
    assert "schema version 99" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_state_directory_that_is_a_file_is_told(home: Any) -> None:
    state = home.paths.state_dir
    state.parent.mkdir(parents=True)
    state.write_text("not a directory")
    found = home.run("ls")
    assert found.returncode == 1
    assert str(state) in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_a_state_directory_of_somebody_else_is_refused(home: Any) -> None:
    home.paths.state_dir.mkdir(parents=True)
    os.chown(home.paths.state_dir, 65534, 65534)
    found = home.run("ls")
    assert found.returncode == 1
    assert "belongs to user 65534" in found.stderr


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_state_directory_is_told(home: Any) -> None:
    state = home.paths.state_dir
    state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", state], check=True)
    try:
        found = home.run("ls")
    finally:
        subprocess.run(["umount", state], check=True)
    assert found.returncode == 1
    assert "read-only" in found.stderr.lower()


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_refuses_new_jobs_clearly_and_recovers(home: Any) -> None:
    state = home.paths.state_dir
    state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", state], check=True)
    try:
        running = home.submit("sh", "-c", f"while [ ! -e {home.path}/go ]; do sleep 0.05; done")
        home.wait(running["name"], "RUNNING")
        filler = state / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        refused = home.run("submit", "--", "true")
        assert refused.returncode == 1
        assert "nothing was lost" in refused.stderr
        (home.path / "go").touch()
        assert home.run("ls").returncode == 0
        filler.unlink()
        assert home.wait(running["name"])["state"] == "SUCCEEDED"
        assert home.run("submit", "--", "true").returncode == 0
        home.client().call("stop")
        poll_gone(home)
    finally:
        subprocess.run(["umount", "-l", state], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)


def poll_gone(home: Any) -> None:
    for job in home.client().call("list")["jobs"]:
        home.wait(job["name"])
    home.client().call("stop")


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[]\n",
        b'{"op": 7}\n',
        b'{"op": "nothing"}\n',
        b'{"op": "submit", "args": {"document": 5}}\n',
        b'{"op": "submit", "args": {"document": {"kind": "MLJob"}}}\n',
        b'{"op": "show", "args": {"job": "../../etc/passwd"}}\n',
        b'{"op": "show", "args": {"job": "\\u001b[31m"}}\n',
        b'{"op": "cancel", "args": {"jobs": ["x"], "grace_s": -1}}\n',
        b'{"op": "list", "args": {"state": ["NOPE"]}}\n',
        b'{"op": "ping", "version": 99}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\x00\n",
        b"x" * (5 << 20) + b"\n",
    ],
    ids=range(14),
)
def test_a_bad_request_gets_an_error_and_hurts_nobody(home: Any, line: bytes) -> None:
    pid = home.service_pid()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(home.paths.socket))
        try:
            connection.sendall(line)
            answer = connection.makefile("rb").readline()
        except ConnectionError:
            answer = b""
    if answer:
        found = json.loads(answer)
        assert "ok" in found or set(found["error"]) == {"code", "message", "hint"}
        assert "\x1b" not in answer.decode()
    assert home.service_pid() == pid
    assert "Traceback" not in home.paths.service_log.read_text()


def test_clients_that_leave_in_the_middle_hurt_nobody(home: Any) -> None:
    pid = home.service_pid()
    for text in (b"", b'{"op": "watch", "args"', b'{"op": "watch", "args": {}}\n'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(home.paths.socket))
            connection.sendall(text)
    assert home.service_pid() == pid
    assert "Traceback" not in home.paths.service_log.read_text()


def test_a_login_with_another_runtime_directory_finds_the_same_service(
    home: Any, tmp_path: Path
) -> None:
    pid = home.service_pid()
    other = home.run("server", "status", "-o", "json", env={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert json.loads(other.stdout)["pid"] == pid


def test_an_old_service_can_be_asked_to_go_by_a_newer_client(home: Any) -> None:
    pid = home.service_pid()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(home.paths.socket))
        connection.sendall(b'{"op": "stop", "version": 99}\n')
        assert json.loads(connection.makefile("rb").readline()) == {"ok": {}}
    home.wait_until_gone(pid)
    assert not home.paths.socket_link.is_symlink()
