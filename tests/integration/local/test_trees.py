"""Whatever a job starts is the job's, and ends with it."""

from __future__ import annotations

import time
from pathlib import Path

from mlsched.model.jobs import EndCause

DAEMON = """
import os, sys, time
if os.fork():
    sys.exit({code})
os.setsid()
if os.fork():
    os._exit(0)
os.environ.clear()
open("daemon", "w").write(str(os.getpid()))
{handles}
time.sleep(100)
"""


def _daemon(code=0, handles=""):
    return DAEMON.format(code=code, handles=handles)


def _is_alive(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def test_children_in_the_background_end_with_the_job(bench):
    job = bench.shell("sleep 100 & sleep 100 & exit 3")
    outcome = bench.run(job, 10)
    assert outcome.exit_code == 3
    assert bench.processes(job) == []


def test_a_daemon_in_its_own_session_ends_with_the_job(bench):
    """Double fork, setsid, another environment: still the job's. The exit code is the command's."""
    job = bench.job(bench.python, "-c", _daemon(5) + "\n")
    waiting = bench.job(
        bench.python,
        "-c",
        "import os, time\nif os.fork() == 0:\n" + _indent(_daemon()) + "\n"
        "while not os.path.exists('daemon'): time.sleep(0.01)\nos._exit(7)\n",
    )
    outcome = bench.run(waiting, 15)
    assert outcome.exit_code == 7
    assert not _is_alive(int((bench.path / "daemon").read_text()))
    assert bench.run(job, 15).exit_code == 5


def _indent(text):
    return "\n".join(f"    {line}" for line in text.splitlines())


def test_a_daemon_that_keeps_the_output_open_does_not_hold_the_job(bench):
    code = (
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    print('child', flush=True); time.sleep(100)\n"
        "time.sleep(0.3)\n"
    )
    began = time.monotonic()
    job = bench.job(bench.python, "-c", code, grace_seconds=1)
    outcome = bench.run(job, 15)
    assert outcome.exit_code == 0
    assert time.monotonic() - began < 10
    assert bench.output(job) == b"child\n"
    assert outcome.run_ms < 1000, "the run ends with its command, not with its daemons"


def test_a_stopped_child_ends_too(bench):
    job = bench.shell("sleep 100 & kill -STOP $!; exit 0")
    assert bench.run(job, 10).exit_code == 0
    assert bench.processes(job) == []


def test_a_job_that_forks_without_end_is_ended_whole(bench):
    """A bounded fork bomb: each process forks again as soon as it can, and ignores SIGTERM."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "end = time.monotonic() + 60\n"
        "while time.monotonic() < end:\n"
        "    if os.fork():\n"
        "        time.sleep(0.02); os._exit(0)\n"
    )
    job = bench.shell(f'{bench.python} -S -c "{code}" & sleep 0.5; exit 0', grace_seconds=1)
    assert bench.run(job, 20).exit_code == 0
    assert bench.processes(job) == []


def test_orphans_are_reaped_while_the_job_runs(bench):
    """A job that leaves thousands of orphans leaves no zombies behind."""
    code = (
        "import os, time\n"
        "for _ in range(200):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: os._exit(0)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "time.sleep(0.3)\n"
        "parent = os.getppid()\n"
        "names = [n for n in os.listdir('/proc') if n.isdecimal()]\n"
        "zombies = 0\n"
        "for n in names:\n"
        "    try: fields = open(f'/proc/{n}/stat').read().rpartition(')')[2].split()\n"
        "    except OSError: continue\n"
        "    zombies += fields[0] == 'Z' and int(fields[1]) == parent\n"
        "print(zombies)\n"
    )
    job = bench.job(bench.python, "-c", code)
    bench.run(job)
    assert bench.output(job) == b"0\n"


def test_a_job_that_closes_its_output_runs_on(bench):
    job = bench.shell("exec >&- 2>&-; sleep 0.3; echo done > file; exit 4")
    outcome = bench.run(job)
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 4)
    assert (bench.path / "file").read_text() == "done\n"
    assert outcome.run_ms >= 300
