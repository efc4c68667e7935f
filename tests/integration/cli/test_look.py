"""Looking at jobs, changing them, schedules, and the service behind it all."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

SCHEDULE = """\
apiVersion: mlsched.io/v1alpha1
kind: Schedule
metadata: {name: nightly}
spec:
  cron: "0 3 * * *"
  timeZone: Europe/Berlin
  job: {command: [echo, tick]}
"""


@pytest.fixture(scope="module")
def ended(home):
    """A job that has ended, with output on both streams."""
    script = "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three; exit 3"
    name = home.submit("--name", "ended", "--", "sh", "-c", script)
    assert home.run("wait", name).returncode == 3
    return name


def test_ls_shows_active_jobs_and_all_shows_ended_ones(home, ended):
    active = home.submit("--", "sleep", "30")
    assert [job["name"] for job in home.json("ls")] == [active]
    names = home.run("ls", "--all", "-o", "name").stdout.decode().split()
    assert names[0] == active
    assert ended in names
    table = home.run("ls").stdout.decode().splitlines()
    assert table[0].split() == ["NAME", "STATE", "GPUS", "QUEUE", "AGE", "REASON"]
    assert all(len(line) <= 80 for line in table)
    assert home.run("ls", "--no-headers").stdout.decode().split()[0] == active
    assert home.run("cancel", active, "--grace", "0").returncode == 0
    assert home.run("wait", active).returncode == 103


def test_ls_can_be_narrowed(home, ended):
    found = home.json("ls", "--state", "F")
    assert ended in [job["name"] for job in found]
    assert {job["state"] for job in found} == {"FAILED"}
    assert home.json("ls", "--all", "--limit", "1") != []
    assert home.json("ls", "--all", "--queue", "nowhere") == []


def test_ls_without_jobs_says_what_else_to_look_at(fresh_home):
    found = fresh_home.run("ls")
    assert (found.returncode, found.stdout) == (0, b"")
    assert b"mlsched ls --all" in found.stderr
    assert fresh_home.json("ls") == []


def test_watching_as_json_is_one_object_a_line(home):
    watching = home.start("ls", "-w", "-o", "json")
    name = home.submit("--", "sh", "-c", "until [ -e seen ]; do sleep 0.02; done")
    states = []
    while not states or states[-1] != "SUCCEEDED":
        event = json.loads(watching.stdout.readline())
        if event["name"] == name:
            states.append(event["state"])
            (home.path / "seen").touch()
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=30)
    assert watching.returncode == 130
    order = ["PENDING", "STARTING", "RUNNING", "SUCCEEDED"]
    assert states == sorted(states, key=order.index)


def test_show_has_the_contract_and_the_details(home, ended):
    job = home.json("show", ended)
    assert job["state"] == "FAILED"
    assert job["exit_code"] == 3
    assert job["reason"]["code"] == "ExitedWithError"
    assert job["reason"]["message"]
    assert job["attempt"] == 1
    assert job["attempts"][0]["exit_code"] == 3
    assert job["document"]["kind"] == "MLJob"
    text = home.run("show", ended).stdout.decode()
    assert "FAILED, exit code 3" in text
    for form in ("yaml", "name", "wide"):
        assert home.run("show", ended, "-o", form).returncode == 0


def test_the_hints_of_show_work(home, ended):
    hint = home.run("show", ended).stdout.decode().splitlines()[-1]
    assert hint == f"again: mlsched retry {ended}"
    words = hint.split(": mlsched ")[1].split()
    again = home.run(*words)
    assert again.returncode == 0
    assert home.run("wait", again.stdout.decode().strip()).returncode == 3


def test_the_spec_of_a_job_can_be_submitted_again(home, ended):
    spec = home.run("show", ended, "--spec").stdout
    again = home.run("submit", "--wait", "-", input=spec)
    assert again.returncode == 3


def test_why_tells_of_an_ended_job_and_its_next_command_works(home, ended):
    found = home.json("why", ended)
    assert found["reason"]["code"] == "ExitedWithError"
    text = home.run("why", ended).stdout.decode()
    assert text.startswith(f"{ended} FAILED")
    command = found["command"].split()
    assert command[0] == "mlsched"
    assert home.run(*command[1:]).returncode == 0


def test_why_tells_of_a_waiting_job(home):
    first = home.submit("--", "sleep", "30")
    second = home.submit("--after", first, "--", "true")
    found = home.json("why", second)
    assert found["reason"]["code"] == "DependencyPending"
    assert first in found["reason"]["message"]
    home.run("cancel", first, second, "--grace", "0")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], b"one\ntwo\nthree\n"),
        (["--tail", "1"], b"three\n"),
        (["--tail", "0"], b""),
        (["--stderr"], b"two\n"),
        (["--stderr", "--tail", "1"], b"two\n"),
        (["--rank", "0"], b"one\ntwo\nthree\n"),
        (["--since", "1h"], b"one\ntwo\nthree\n"),
        (["--since", "2999-01-01T00:00:00Z"], b""),
        (["-f"], b"one\ntwo\nthree\n"),
        (["-f", "--tail", "1"], b"three\n"),
    ],
)
def test_logs(home, ended, words, expected):
    found = home.run("logs", ended, *words)
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected


def test_logs_with_times(home, ended):
    first = home.run("logs", ended, "--timestamps").stdout.decode().splitlines()[0]
    at, _, line = first.partition(" ")
    assert line == "one"
    assert at.startswith("20")
    assert at.endswith("Z")


def test_logs_of_a_rank_that_never_was(home, ended):
    assert home.run("logs", ended, "--rank", "7").returncode == 102
    assert home.run("logs", ended, "--rank", "one").returncode == 2


def test_logs_of_the_attempt_before(home):
    name = home.submit("--retries", "1", "--", "sh", "-c", "echo try $MLSCHED_ATTEMPT; false")
    assert home.run("wait", name).returncode == 1
    assert home.run("logs", name).stdout == b"try 2\n"
    assert home.run("logs", name, "--previous").stdout == b"try 1\n"
    once = home.submit("--", "true")
    home.run("wait", once)
    assert home.run("logs", once, "--previous").returncode == 102


def test_following_a_waiting_job_shows_why_it_waits_and_then_its_output(home):
    first = home.submit("--", "sleep", "3")
    second = home.submit("--after", first, "--", "echo", "late")
    found = home.run("logs", "-f", second)
    assert found.stdout == b"late\n"
    assert b"waits:" in found.stderr


def test_wait_gives_up_with_101_and_the_job_goes_on(home):
    name = home.submit("--", "sleep", "30")
    assert home.run("wait", name, "--for", "running", "--timeout", "20s").returncode == 0
    found = home.run("wait", name, "--timeout", "1s")
    assert found.returncode == 101
    assert home.state(name) == "RUNNING"
    home.run("cancel", name, "--grace", "0")
    assert home.run("wait", name).returncode == 103


def test_wait_for_several_jobs_gives_the_highest_code(home):
    names = [home.submit("--", "sh", "-c", f"exit {code}") for code in (0, 4, 2)]
    assert home.run("wait", *names).returncode == 4


def test_cancel_by_label_and_state(home):
    for _ in range(2):
        home.submit("-l", "sweep=a", "--", "sleep", "60")
    kept = home.submit("-l", "sweep=b", "--", "sleep", "60")
    found = home.run("cancel", "-l", "sweep=a", "--grace", "0", "-o", "name")
    assert len(found.stdout.split()) == 2
    assert home.run("wait", *found.stdout.decode().split()).returncode == 103
    assert home.state(kept) in ("PENDING", "STARTING", "RUNNING")
    home.run("cancel", kept, "--grace", "0")
    assert home.run("cancel", "-l", "sweep=none").returncode == 0
    assert home.run("cancel").returncode == 2


def test_of_an_array_only_the_elements_in_a_state_are_cancelled(home):
    name = home.submit("-a", "0-5%2", "--cpus", "0.1", "--", "sleep", "60")
    home.run("wait", f"{name}[0]", f"{name}[1]", "--for", "running", "--timeout", "20s")
    assert name in home.run("ls", "--state", "PENDING", "-o", "name").stdout.decode().split()
    assert home.run("cancel", "--state", "PENDING", "--yes", name).returncode == 2
    assert home.run("cancel", "--state", "PENDING", "--yes").returncode == 0
    assert [home.state(f"{name}[{n}]") for n in (0, 1, 2, 5)] == ["RUNNING"] * 2 + ["CANCELLED"] * 2
    home.run("cancel", name, "--grace", "0")
    home.run("wait", name)


def test_the_reason_of_an_array_belongs_to_its_exit_code(home):
    name = home.submit("-a", "0-3", "--", "sh", "-c", "exit $MLSCHED_ARRAY_INDEX")
    assert home.run("wait", name).returncode == 3
    shown = home.json("show", name)
    assert (shown["state"], shown["exit_code"]) == ("FAILED", 3)
    assert shown["reason"]["message"] == "ended with exit code 3"
    told = home.json("why", name)
    assert (
        told["reason"]["message"] == told["job"]["reason"]["message"] == shown["reason"]["message"]
    )


def test_wait_looks_before_its_time_is_over(home, ended):
    assert (
        home.run("wait", ended, "--timeout", "0").returncode
        == home.json("show", ended)["exit_code"]
    )
    assert home.run("wait", "nobody", "--timeout", "0").returncode == 102


def test_a_dry_run_tells_of_a_dependency_that_is_lost(home):
    failed = home.submit("--", "false")
    home.run("wait", failed)
    told = home.json("submit", "--dry-run", "--after", f"{failed}:ok", "--", "true")
    assert (told["starts_now"], told["reason"]["code"]) == (False, "DependencyFailed")


def test_doctor_reads_the_defaults_too(fresh_home):
    fresh_home.configure('[defaults]\nquue = "batch"\n')
    checks = {
        check["name"]: check for check in json.loads(fresh_home.run("doctor", "-o", "json").stdout)
    }
    assert checks["settings"]["state"] == "fail"
    assert "quue" in checks["settings"]["found"]


def test_a_second_job_of_a_long_name_can_be_submitted_again(home):
    names = [home.submit("--name", "n" * 63, "--", "true") for _ in range(2)]
    assert len(names[1]) <= 63
    home.run("wait", *names)
    assert home.run("retry", names[1]).returncode == 0


def test_retry_with_a_change(home, ended):
    script = "exit 0"
    again = home.run("retry", ended, "--set", f'command=["sh", "-c", "{script}"]')
    assert again.returncode == 0, again.stderr
    assert home.run("wait", again.stdout.decode().strip()).returncode == 0
    assert home.run("retry", ended, "--set", "gpusPerNod=1").returncode == 2


def test_report(home, ended):
    found = home.json("report", ended)
    assert found["jobs"][0]["run_s"] >= 0
    text = home.run("report", ended).stdout.decode()
    assert "NAME" in text
    assert ended in text
    assert home.run("report", "--since", "1h").returncode == 0


def test_top_once(home):
    found = home.run("top", "--once")
    assert found.returncode == 0, found.stderr
    assert b"CPUs [" in found.stdout
    assert set(home.json("top")) == {"node", "jobs"}


def test_doctor(home):
    checks = home.json("doctor")
    assert {check["name"] for check in checks} >= {"python", "service", "disk", "limits", "gpus"}
    assert not [check for check in checks if check["state"] == "fail"]


def test_a_schedule_fires_each_tick_once(home):
    path = home.path / "nightly.yaml"
    path.write_text(SCHEDULE)
    assert home.run("cron", "apply", str(path)).returncode == 0
    (schedule,) = home.json("cron", "ls")
    assert schedule["name"] == "nightly"
    assert schedule["next_tick"]
    later = schedule["next_tick"]
    ticks = [home.start("cron", "tick", "--now", later, "-o", "json") for _ in range(2)]
    fired = [job for tick in ticks for job in json.loads(tick.communicate(timeout=60)[0])["fired"]]
    assert len({run["run_id"] for run in fired}) == 1
    made = [job["name"] for job in home.json("ls", "--all")]
    assert [name for name in made if name.startswith("nightly")] == [fired[0]["job"]]
    assert home.run("wait", fired[0]["job"]).returncode == 0
    assert home.run("logs", fired[0]["job"]).stdout == b"tick\n"
    assert b"nightly" in home.run("cron", "ls").stdout
    assert home.run("cron", "apply", "-", input=b"kind: Nothing\n").returncode == 2


def test_jobs_go_on_without_the_service(fresh_home):
    name = fresh_home.submit("--", "sh", "-c", "sleep 2; exit 6")
    status = fresh_home.json("server", "status")
    assert set(status) >= {"pid", "socket", "database"}
    assert fresh_home.run("server", "stop").returncode == 0
    assert fresh_home.run("server", "status").returncode == 104
    assert fresh_home.run("wait", name).returncode == 6
    assert fresh_home.json("server", "status")["pid"] != status["pid"]


def test_a_socket_left_by_a_dead_service_is_no_obstacle(fresh_home):
    fresh_home.run("ls")
    status = fresh_home.json("server", "status")
    os.kill(status["pid"], signal.SIGKILL)
    ended = fresh_home.run("run", "--", "echo", "hi")
    assert (ended.returncode, ended.stdout) == (0, b"hi\n")


def test_a_state_directory_that_is_a_file_is_a_clear_error(fresh_home):
    (fresh_home.path / "file").write_text("")
    ended = fresh_home.run(
        "ls", "-o", "json", env={"XDG_STATE_HOME": str(fresh_home.path / "file")}
    )
    assert ended.returncode == 1
    assert json.loads(ended.stderr)["error"]["code"] == "InvalidConfig"


def test_a_service_that_cannot_start_is_unreachable_with_its_last_words(fresh_home):
    fresh_home.run("ls")
    database = fresh_home.json("server", "status")["database"]
    fresh_home.run("server", "stop")
    for path in Path(database).parent.glob("state.db*"):
        path.write_bytes(b"this is no database" * 1000)
    ended = fresh_home.run("ls", "-o", "json")
    assert ended.returncode == 104
    error = json.loads(ended.stderr)["error"]
    assert error["code"] == "Unreachable"
    assert "last words" in error["message"]
    assert "service.log" in error["hint"]


def test_a_lock_that_somebody_else_holds_is_explained(fresh_home):
    state = fresh_home.path / ".local" / "state" / "mlsched"
    state.mkdir(mode=0o700, parents=True)
    with (state / "service.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = fresh_home.run("ls", "-o", "json")
    assert ended.returncode == 104
    error = json.loads(ended.stderr)["error"]
    assert "service.lock" in error["message"]
    assert "XDG_RUNTIME_DIR" in error["hint"]


def test_a_service_that_is_about_to_end_is_waited_for(fresh_home):
    """Its lock is still held when the next command comes."""
    state = fresh_home.path / ".local" / "state" / "mlsched"
    state.mkdir(mode=0o700, parents=True)
    with (state / "service.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = fresh_home.start("run", "--", "echo", "hi")
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(2)
        fcntl.flock(lock, fcntl.LOCK_UN)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (0, b"hi\n"), err
