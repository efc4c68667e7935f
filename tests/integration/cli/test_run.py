"""``mlsched run``: the job's bytes, the job's exit code, and Ctrl-C that never kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlsched.units import format_bytes


def test_a_first_run_prints_the_jobs_output_and_nothing_else(fresh_home):
    ended = fresh_home.run("run", "--", sys.executable, "-c", "print(2+3)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"5\n", b"")


def test_output_is_exact_to_the_byte_on_both_streams(home):
    program = (
        "import sys, os\n"
        "every = bytes(range(256))\n"
        "os.write(1, every * 200 + b'x' * 70_000 + b'no newline')\n"
        "os.write(2, every[::-1] * 3)\n"
    )
    ended = home.run("run", "--", sys.executable, "-c", program)
    every = bytes(range(256))
    assert ended.stdout == every * 200 + b"x" * 70_000 + b"no newline"
    assert ended.stderr == every[::-1] * 3
    assert ended.returncode == 0


def test_a_lot_of_output_arrives_whole_and_in_order(home):
    ended = home.run("run", "--", "seq", "200000")
    assert ended.stdout == b"".join(b"%d\n" % n for n in range(1, 200_001))


def test_output_that_is_not_shown_is_told(fresh_home, until):
    """Short lines fill the log, and nobody reads what ``run`` prints until the job has ended."""
    fresh_home.configure("[logs]\nbytes_max = 1048576\nfiles_max = 2\n")
    flood = "yes '' | head -c 400000"
    following = fresh_home.start("run", "--name", "flood", "--", "sh", "-c", flood)
    until(lambda: fresh_home.json("ls", "--all"))
    until(lambda: fresh_home.state("flood") == "SUCCEEDED")
    shown, told = following.communicate(timeout=60)
    job = fresh_home.json("show", "flood")
    assert job["output_bytes"] == 400_000
    assert 0 < len(shown) < 400_000
    assert following.returncode == 0
    missing = format_bytes(400_000 - len(shown))
    assert f"{missing} of flood's output were dropped before they could be shown".encode() in told

    kept = fresh_home.run("logs", "flood")
    assert len(kept.stdout) + job["output_dropped_bytes"] == 400_000
    dropped = f"the first {format_bytes(job['output_dropped_bytes'])} were dropped"
    assert kept.stderr.decode() == f"Of flood's output {dropped}, to bound the log.\n"
    assert dropped in fresh_home.run("show", "flood").stdout.decode()
    for part in (("--tail", "1"), ("--rank", "0"), ("--since", "10m")):
        assert not fresh_home.run("logs", *part, "flood").stderr


def test_a_line_arrives_while_the_job_runs(home):
    release = home.path / "release"
    script = f"echo first; while [ ! -e {release} ]; do sleep 0.05; done; echo last"
    running = home.start("run", "--", "sh", "-c", script)
    assert running.stdout.readline() == b"first\n"
    release.touch()
    out, _ = running.communicate(timeout=30)
    assert (out, running.returncode) == (b"last\n", 0)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sh", "-c", "exit 0"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_run_exits_as_the_job_did(home, words, code):
    ended = home.run("run", "--", *words)
    assert ended.returncode == code
    assert ended.stdout == b""


def test_a_job_that_cannot_start_exits_100_and_says_why(home):
    ended = home.run("run", "--workdir", "/no/such/dir", "--", "true")
    assert ended.returncode == 100
    assert b"/no/such/dir" in ended.stderr


def test_a_job_that_can_never_fit_is_refused_with_what_exists(home):
    ended = home.run("run", "--gpus", "1000", "--", "true")
    assert ended.returncode == 2
    assert b"can never run here" in ended.stderr
    assert b"1000" in ended.stderr


def test_a_time_limit_ends_the_job_with_a_reason_of_its_own(home):
    ended = home.run("run", "--time", "1s", "--grace", "1s", "--", "sleep", "60")
    assert ended.returncode not in (0, 103, 130)
    assert b"time limit" in ended.stderr


def test_cancelled_by_somebody_exits_103(home, until):
    running = home.start("run", "--name", "cancel-me", "--", "sleep", "60")
    until(lambda: home.run("show", "cancel-me").returncode == 0)
    assert home.run("cancel", "cancel-me", "--grace", "0").returncode == 0
    _, err = running.communicate(timeout=30)
    assert running.returncode == 103
    assert b"cancel-me was cancelled" in err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(home):
    running = home.start("run", "--name", "left", "--", "sh", "-c", "echo up; sleep 60")
    assert running.stdout.readline() == b"up\n"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert home.state("left") == "RUNNING"
    hints = dict(line.split(": ", 1) for line in err.decode().splitlines() if ": mlsched" in line)
    assert set(hints) == {"follow", "cancel"}
    assert hints["follow"] == "mlsched logs -f left"
    words = hints["cancel"].split()[1:]
    assert home.run(*words).returncode == 0
    assert home.run("wait", "left").returncode == 103


def test_ctrl_c_during_logs_leaves_the_job_running(home, until):
    name = home.submit("--", "sh", "-c", "echo up; sleep 60")
    following = home.start("logs", "-f", name)
    assert following.stdout.readline() == b"up\n"
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=30)
    assert following.returncode == 130
    assert b"goes on" in err
    assert home.state(name) == "RUNNING"
    home.run("cancel", name, "--grace", "0")


def test_a_job_that_waits_says_for_what_on_standard_error(home):
    first = home.submit("--", "sleep", "3")
    ended = home.run("run", "--after", first, "--", "echo", "done")
    assert ended.stdout == b"done\n"
    assert b"waits:" in ended.stderr
    assert first.encode() in ended.stderr


def test_an_array_is_prefixed_by_index_and_exits_with_the_highest_code(home):
    script = "echo i=$MLSCHED_ARRAY_INDEX; exit $MLSCHED_ARRAY_INDEX"
    ended = home.run("run", "--array", "0-2", "--", "sh", "-c", script)
    assert sorted(ended.stdout.splitlines()) == [b"[0] i=0", b"[1] i=1", b"[2] i=2"]
    assert ended.returncode == 2


def test_ranks_are_prefixed_when_there_are_several(home):
    flags = ["--tasks-per-node", "2", "--cpus", "0.1"]
    ended = home.run("run", *flags, "--", "sh", "-c", "echo rank $RANK of $WORLD_SIZE")
    assert sorted(ended.stdout.splitlines()) == [b"[0] rank 0 of 2", b"[1] rank 1 of 2"]


def test_a_retry_is_followed_and_its_end_counts(home):
    script = "echo try $MLSCHED_ATTEMPT; [ $MLSCHED_ATTEMPT = 2 ]"
    ended = home.run("run", "--retries", "1", "--", "sh", "-c", script)
    assert ended.stdout == b"try 1\ntry 2\n"
    assert ended.returncode == 0


def test_a_reader_that_leaves_ends_run_quietly_and_not_the_job(home):
    running = home.start("run", "--name", "piped", "--", "sh", "-c", "seq 300000; sleep 60")
    assert running.stdout.readline() == b"1\n"
    running.stdout.close()
    err = running.stderr.read()
    assert running.wait(30) == 141
    running.stderr.close()
    assert err == b""
    assert home.state("piped") == "RUNNING"
    home.run("cancel", "piped", "--grace", "0")


def test_the_client_may_be_killed_and_the_job_goes_on(home):
    running = home.start("run", "--name", "orphan", "--", "sh", "-c", "echo up; sleep 60")
    assert running.stdout.readline() == b"up\n"
    running.kill()
    running.communicate()
    assert home.state("orphan") == "RUNNING"
    home.run("cancel", "orphan", "--grace", "0")


def test_run_goes_on_when_the_service_is_killed_meanwhile(home):
    release = home.path / "release-2"
    script = f"echo first; while [ ! -e {release} ]; do sleep 0.05; done; echo last; exit 4"
    running = home.start("run", "--", "sh", "-c", script)
    assert running.stdout.readline() == b"first\n"
    os.kill(home.json("server", "status")["pid"], signal.SIGKILL)
    release.touch()
    out, _ = running.communicate(timeout=40)
    assert (out, running.returncode) == (b"last\n", 4)


def test_two_first_commands_at_once_leave_one_service(fresh_home):
    runs = [fresh_home.start("run", "--", "echo", str(n)) for n in range(2)]
    ended = [run.communicate(timeout=60) for run in runs]
    assert [out for out, _ in ended] == [b"0\n", b"1\n"], ended
    assert [run.returncode for run in runs] == [0, 0]
    assert len(fresh_home.json("ls", "--all")) == 2


def test_a_job_does_not_read_the_terminals_input(home):
    ended = home.run("run", "--", "cat", input=b"secret\n")
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_the_shells_environment_and_directory_are_the_jobs(home):
    place = home.path / "place"
    place.mkdir()
    ended = home.run(
        "run", "-e", "EXTRA=2", "--", "sh", "-c", "echo $MARK $EXTRA $PWD",
        env={"MARK": "1"}, cwd=place,
    )  # fmt: skip
    assert ended.stdout == f"1 2 {place}\n".encode()


def test_a_job_submitted_by_a_job_runs_under_its_own_name(home):
    inner = f"{sys.executable} -m mlsched run --cpus 0.1 -- sh -c 'echo $MLSCHED_NAME'"
    ended = home.run("run", "--cpus", "0.1", "--name", "outer", "--", "sh", "-c", inner)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() not in (b"", b"outer")


def test_a_job_cannot_start_the_service_which_would_end_with_it(fresh_home, until):
    go = fresh_home.path / "go"
    script = f"until [ -e {go} ]; do sleep 0.05; done; {sys.executable} -m mlsched ls"
    name = fresh_home.submit("--", "sh", "-c", script)
    until(lambda: fresh_home.state(name) == "RUNNING")
    assert fresh_home.run("server", "stop").returncode == 0
    go.touch()
    until(lambda: list((fresh_home.path / ".local/state/mlsched/jobs").glob("*/1/exit.json")))
    assert fresh_home.run("wait", name).returncode == 104
    assert b"cannot be started from inside a job" in fresh_home.run("logs", name).stdout


def test_standard_output_may_be_closed(home):
    command = " ".join([*home.command("run", "--", "true"), ">&-"])
    ended = subprocess.run(
        ["sh", "-c", command], env=home.env, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode in (0, 1)
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [["run", "--", "seq", "100000"], ["help", "exit-codes"]])
def test_a_full_disk_behind_standard_output_is_an_error_of_its_own(home, words):
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            home.command(*words), env=home.env, stdout=full, stderr=subprocess.PIPE,
            timeout=60, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: cannot write the output: No space left")
    assert b"Traceback" not in ended.stderr
