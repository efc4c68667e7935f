"""How a job ended is told truly, whatever the command was."""

from __future__ import annotations

import os
import signal
import stat

import pytest

from mlsched.model.jobs import EndCause


@pytest.mark.parametrize("code", [0, 1, 75, 255])
def test_exit_code_is_kept(bench, code):
    outcome = bench.run(bench.shell(f"exit {code}"))
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, code)
    assert outcome.failed_rank == (0 if code else -1)


def test_a_signal_is_told_as_a_shell_tells_it(bench):
    outcome = bench.run(bench.shell("kill -SEGV $$"))
    assert (outcome.cause, outcome.exit_code, outcome.signal) == (EndCause.SIGNALLED, 139, 11)
    assert "SIGSEGV" in outcome.message


def test_an_end_comes_with_times_and_use(bench):
    outcome = bench.run(
        bench.job(bench.python, "-c", "x = bytearray(60_000_000); sum(range(3_000_000))")
    )
    assert outcome.memory_peak_bytes > 60_000_000
    assert outcome.cpu_ms > 20
    assert outcome.run_ms > 20
    assert outcome.ended_at_ms > 1_700_000_000_000


def test_command_not_found(bench):
    outcome = bench.run(bench.job("no-such-command-at-all"))
    assert (outcome.cause, outcome.exit_code) == (EndCause.NOT_FOUND, 127)
    assert "no-such-command-at-all" in outcome.message


def test_a_path_that_does_not_exist(bench):
    outcome = bench.run(bench.job("./missing"))
    assert (outcome.cause, outcome.exit_code) == (EndCause.NOT_FOUND, 127)


def test_a_file_without_execute_permission(bench):
    (bench.path / "data").write_text("hello")
    outcome = bench.run(bench.job("./data"))
    assert (outcome.cause, outcome.exit_code) == (EndCause.NOT_EXECUTABLE, 126)


def test_a_directory_as_the_command(bench):
    outcome = bench.run(bench.job(str(bench.path)))
    assert (outcome.cause, outcome.exit_code) == (EndCause.NOT_EXECUTABLE, 126)


@pytest.mark.parametrize(
    ("text", "words"), [("echo hello", "#!"), ("#!/no/such/interpreter\n", "interpreter")]
)
def test_a_script_that_nothing_can_run(bench, text, words):
    path = bench.path / "script.sh"
    path.write_text(text)
    path.chmod(0o755)
    outcome = bench.run(bench.job("./script.sh"))
    assert (outcome.cause, outcome.exit_code) == (EndCause.NOT_EXECUTABLE, 126)
    assert words in outcome.message


def test_a_working_directory_that_is_missing(bench):
    outcome = bench.run(bench.job("true", workdir="/no/such/place"))
    assert (outcome.cause, outcome.exit_code) == (EndCause.WORKDIR_MISSING, None)
    assert "/no/such/place" in outcome.message


@pytest.mark.parametrize("where", ["environment", "arguments"])
def test_more_than_the_kernel_takes(bench, where):
    large = "x" * 200_000
    job = (
        bench.job("true", env={"LARGE": large})
        if where == "environment"
        else bench.job("true", large)
    )
    outcome = bench.run(job)
    assert (outcome.cause, outcome.exit_code) == (EndCause.CANNOT_START, None)
    assert "larger than the kernel allows" in outcome.message


def test_a_script_runs_by_its_first_line_with_arguments(bench):
    text = f"#!{bench.python}\nimport sys\nprint(sys.argv[1:])\n"
    job = bench.job("a b", "c", script=text)
    assert bench.run(job).exit_code == 0
    assert bench.output(job) == b"['a b', 'c']\n"
    mode = (bench.files(job).path / "script").stat().st_mode
    assert stat.S_IMODE(mode) == 0o700


def test_standard_input_is_empty(bench):
    job = bench.shell("cat; echo end")
    bench.run(job)
    assert bench.output(job) == b"end\n"


def test_nothing_of_the_service_leaks_into_the_job(bench):
    """Only the three standard handles, default signals, an empty signal mask, its own session."""
    code = """
import os, signal
handles = [h for h in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + h)]
print(sorted(handles), os.getsid(0) == os.getpid(), signal.pthread_sigmask(0, ()))
ignored = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
print([n.name for n in sorted(ignored)])
"""
    held = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(held, True)
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        job = bench.job(bench.python, "-I", "-c", code)
        bench.run(job)
    finally:
        signal.signal(signal.SIGQUIT, before)
        os.close(held)
    first, second = bench.output(job).decode().splitlines()
    assert first == "['0', '1', '2'] True set()"
    assert second == "['SIGPIPE', 'SIGXFSZ']", "the two that Python itself ignores"


def test_the_attempt_directory_is_private(bench):
    job = bench.shell("exit 0")
    bench.run(job)
    for path in (bench.files(job).path, bench.files(job).job_dir):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in bench.files(job).path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_copy_of_the_output_goes_where_the_user_wants_it(bench):
    job = bench.shell("echo out; echo err >&2", output="%x-%j.txt")
    bench.run(job)
    copied = (bench.path / f"{job.name}-{job.id}.txt").read_text()
    assert sorted(copied.split()) == ["err", "out"]


def test_an_output_file_that_cannot_be_written_is_an_error(bench):
    outcome = bench.run(bench.shell("exit 0", output="/no/such/place/out.txt"))
    assert outcome.cause is EndCause.CANNOT_START
    assert "/no/such/place/out.txt" in outcome.message


def test_environment_bytes_that_are_no_utf8_arrive_as_they_are(bench):
    job = bench.job(
        bench.python, "-c", "import os; print(os.environb[b'ODD'])", env={"ODD": "a\udcffb"}
    )
    bench.run(job)
    assert bench.output(job) == b"b'a\\xffb'\n"


def test_ranks_of_a_gang_know_each_other(bench):
    job = bench.shell("echo $RANK/$WORLD_SIZE $LOCAL_RANK $NODE_RANK", groups=2, tasks_per_node=2)
    assert bench.run(job).exit_code == 0
    lines = [bench.output(job, rank=rank) for rank in range(4)]
    assert lines == [b"0/4 0 0\n", b"1/4 1 0\n", b"2/4 0 1\n", b"3/4 1 1\n"]


def test_one_failing_rank_ends_the_others(bench):
    text = 'if [ "$RANK" = 1 ]; then exit 9; fi; sleep 100'
    job = bench.shell(text, tasks_per_node=3, grace_seconds=5)
    outcome = bench.run(job, 10)
    assert (outcome.cause, outcome.exit_code, outcome.failed_rank) == (EndCause.EXITED, 9, 1)
    assert bench.processes(job) == []


def test_no_rank_stays_when_one_cannot_start(bench):
    """All start or none: each has an environment that no kernel takes."""
    job = bench.shell("sleep 100", tasks_per_node=2, env={"LARGE": "x" * 200_000})
    outcome = bench.run(job, 10)
    assert outcome.cause is EndCause.CANNOT_START
    assert bench.processes(job) == []


def test_a_launch_that_is_not_understood_ends_with_a_record(bench):
    """A bug of ours after the claim: the attempt still ends, durably, with what went wrong."""
    job = bench.shell("exit 0")
    files = bench.files(job)
    files.create()
    files.write_launch({"job_id": job.id, "attempt": 1}, "")
    outcome = bench.run(job)
    assert outcome.cause is EndCause.SUPERVISOR_LOST
    assert "the supervisor failed" in outcome.message
    assert files.read_outcome() == outcome
