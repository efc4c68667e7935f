"""Jobs from Python: submit functions and commands, hold on to them, get back what they gave."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
import traceback
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import mlsched as ml
from mlsched.api.client import connect


class Unhappy(Exception):
    """An exception of the user's own."""


def fail(text):
    raise Unhappy(text)


def test_a_function_gives_its_value_back():
    job = ml.submit(lambda a, *, b: a + b, 2, b=3)
    assert job.result(timeout=60) == 5
    assert job.state == "SUCCEEDED"
    assert job.done()
    assert job.exception() is None


@pytest.mark.parametrize(
    "value",
    [
        {"loss": 0.5, "names": ["a", None]},
        (1, {2, 3}),
        np.arange(6.0).reshape(2, 3),
        pa.table({"a": [1, 2], "b": ["x", None]}),
    ],
    ids=["json", "pickle", "array", "table"],
)
def test_values_of_each_kind_come_back_equal(value):
    found = ml.submit(lambda: value).result(timeout=60)
    assert type(found) is type(value)
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


def test_the_original_exception_comes_back_with_its_remote_frames():
    job = ml.submit(fail, "sorry")
    with pytest.raises(Unhappy, match="sorry") as caught:
        job.result(timeout=60)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].filename == __file__
    assert frames[-1].line
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fail"
    assert f"raised in job {job.name}, attempt 1" in caught.value.__notes__
    assert isinstance(job.exception(), Unhappy)
    assert "Unhappy: sorry" in str(job.logs())


def test_an_exception_that_cannot_be_rebuilt_is_a_remote_error():
    def refuse():
        class Local(Exception):
            def __reduce__(self):
                raise TypeError("never")

        raise Local("inside")

    with pytest.raises(ml.RemoteError, match="Local: inside") as caught:
        ml.submit(refuse).result(timeout=60)
    assert caught.value.remote_type.endswith("Local")
    assert "refuse" in caught.value.remote_text


def test_a_command_is_a_list_or_a_text_without_a_shell():
    job = ml.submit(["sh", "-c", "echo $MLSCHED_NAME $EXTRA"], name="from-python", env={"EXTRA": 1})
    assert job.result(timeout=60) == 0
    assert list(job.logs()) == ["from-python 1"]
    assert ml.submit("echo 'a  b'").wait(60)
    with pytest.raises(ml.SpecError, match="shell"):
        ml.submit("echo a | cat")
    with pytest.raises(ml.SpecError, match="no arguments of a function"):
        ml.submit("echo", 1, gpu=2)


def test_a_command_that_fails_raises_with_its_exit_code():
    job = ml.submit(["sh", "-c", "exit 7"])
    with pytest.raises(ml.JobFailed) as caught:
        job.result(timeout=60)
    assert caught.value.exit_code == 7
    assert caught.value.job == job.name
    assert job.status.exit_code == 7
    assert job.status.reason == "ExitedWithError"


def test_each_way_to_end_has_its_exception():
    limited = ml.submit("sleep 60", time=1, grace=1)
    cancelled = ml.submit("sleep 60", cpus=0.1)
    cancelled.cancel(grace=0)
    orphan = ml.submit("true", after=f"{ml.submit('false').name}:ok")
    with pytest.raises(ml.Timeout):
        limited.result(timeout=60)
    with pytest.raises(ml.Cancelled):
        cancelled.result(timeout=60)
    with pytest.raises(ml.Unschedulable):
        orphan.result(timeout=60)
    with pytest.raises(ml.NeverFitsError):
        ml.submit("true", gpus=1000)


def test_waiting_too_long_is_a_timeout_and_the_job_goes_on():
    job = ml.submit("sleep 60", cpus=0.1)
    assert job.wait(0.1) is False
    with pytest.raises(TimeoutError, match="it goes on"):
        job.result(timeout=0.1)
    with pytest.raises(TimeoutError):
        job.exception(timeout=0.1)
    assert not job.done()
    job.cancel(grace="0s")
    assert job.wait(60)


def test_a_job_can_be_awaited_among_others():
    async def both():
        jobs = [ml.submit(pow, 2, n, cpus=0.1) for n in (5, 6)]
        return await asyncio.gather(*jobs)

    assert asyncio.run(both()) == [32, 64]


def test_awaiting_raises_what_the_function_raised():
    async def one():
        return await ml.submit(fail, "later")

    with pytest.raises(Unhappy, match="later"):
        asyncio.run(one())


def test_an_await_can_be_given_up_and_the_job_goes_on():
    job = ml.submit("sleep 60", cpus=0.1)

    async def impatient():
        async with asyncio.timeout(0.3):
            await job

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert job.state in ("PENDING", "STARTING", "RUNNING")
    job.cancel(grace=0)


def test_blocking_calls_work_inside_a_running_loop():
    async def cell():
        return ml.submit(max, 3, 4).result(timeout=60)

    assert asyncio.run(cell()) == 4


def test_a_callback_is_called_once_at_the_end():
    called, done = [], threading.Event()
    job = ml.submit("true")
    job.add_done_callback(lambda ended: (called.append(ended), done.set()))
    assert done.wait(60)
    assert called == [job]


def test_a_handle_is_found_again_by_name_and_survives_pickling():
    job = ml.submit(lambda: 8, name="findme")
    again = pickle.loads(pickle.dumps(ml.get("findme")))
    assert again == job
    assert again.result(timeout=60) == 8
    with pytest.raises(ml.NotFoundError):
        ml.get("nobody")


def test_output_can_be_followed_while_the_job_runs(home):
    release = home / "release"
    script = f"echo first; while [ ! -e {release} ]; do sleep 0.05; done; echo last"
    job = ml.submit(["sh", "-c", script])
    lines = iter(job.logs(follow=True))
    assert next(lines) == "first"
    release.touch()
    assert list(lines) == ["last"]
    assert str(job.logs(tail=1)) == "last"
    assert repr(job.logs()) == "first\nlast"


@pytest.mark.parametrize("what", ["logs", "result"])
def test_an_interrupt_cancels_nothing(what, until):
    job = ml.submit(["sh", "-c", "echo up; sleep 60"], cpus=0.1)
    until(lambda: str(job.logs()) == "up")
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(job.logs(follow=True)) if what == "logs" else job.result()
    timer.join()
    assert job.state == "RUNNING"
    job.cancel(grace=0)


def test_why_and_status_say_for_what_a_job_waits():
    first = ml.submit("sleep 60", cpus=0.1)
    second = ml.submit("true", after=first)
    assert first.name in second.why()
    status = second.status
    assert (status.phase, status.reason) == ("PENDING", "DependencyPending")
    assert status.message
    for job in (second, first):
        job.cancel(grace=0)


def test_progress_and_metrics_are_seen_from_outside(until):
    def work():
        import time

        import mlsched as ml

        ml.progress(3, 10, unit="steps", note="loss <0.5>")
        ml.metrics(loss=0.5)
        time.sleep(60)

    job = ml.submit(work)
    found = until(lambda: job.status.progress)
    assert (found["done"], found["total"], found["unit"]) == (3, 10, "steps")
    html = job._repr_html_()
    assert "3/10 steps, loss &lt;0.5&gt;" in html
    assert "RUNNING" in html
    assert job.name in html
    assert set(job._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert repr(job) == f"<mlsched.Job {job.name} RUNNING>"
    (row,) = connect().call("report", job=job.id)["jobs"]
    assert row["metrics"] == {"loss": 0.5}
    job.cancel(grace=0)


def test_a_function_runs_where_it_was_submitted_and_finds_modules_there(home):
    (home / "beside.py").write_text("def double(x):\n    return 2 * x\n")

    def use():
        import beside

        return beside.double(4), str(Path.cwd()), sys.version_info[:2]

    assert ml.submit(use).result(timeout=60) == (8, str(home), sys.version_info[:2])


def test_the_environment_of_the_submitter_is_the_jobs(monkeypatch):
    monkeypatch.setenv("MARK", "here")
    job = ml.submit(lambda: (os.environ["MARK"], os.environ["CUDA_VISIBLE_DEVICES"]))
    assert job.result(timeout=60) == ("here", "")


def test_an_array_gives_a_list_in_the_order_of_its_indices():
    job = ml.submit(lambda: int(os.environ["MLSCHED_ARRAY_INDEX"]) ** 2, array=4, cpus=0.2)
    assert job.result(timeout=60) == [0, 1, 4, 9]
    assert [element.name for element in job.elements()] == [f"{job.name}[{n}]" for n in range(4)]


def test_a_coroutine_function_is_run_to_its_end():
    async def later():
        await asyncio.sleep(0)
        return "done"

    assert ml.submit(later).result(timeout=60) == "done"


def test_sys_exit_is_an_exit_code_and_no_exception_of_the_function():
    with pytest.raises(ml.JobFailed) as caught:
        ml.submit(sys.exit, 9).result(timeout=60)
    assert caught.value.exit_code == 9


def test_a_retry_of_a_function_that_then_works(tmp_path):
    flag = tmp_path / "flag"

    def second_time(path):
        if not path.exists():
            path.touch()
            raise RuntimeError("first")
        return "second"

    assert ml.submit(second_time, flag, retries=1).result(timeout=60) == "second"


def test_jobs_and_gpus_are_listed():
    job = ml.submit("sleep 60", cpus=0.1, queue="mine")
    assert job in ml.jobs()
    assert ml.jobs(queue="mine") == [job]
    job.cancel(grace=0)
    job.wait(60)
    assert job in ml.jobs(all=True)
    assert isinstance(ml.gpus(), list)


def test_a_handle_can_be_shown_while_the_service_is_down():
    job = ml.Job("gone-1", "0" * 32)
    connect().call("stop")
    assert repr(job) in ("<mlsched.Job gone-1>", "<mlsched.Job gone-1 UNKNOWN>")
    assert "gone-1" in job._repr_html_()


def test_the_same_key_gives_the_same_job():
    first = ml.submit("true", idempotency_key="k-1")
    assert ml.submit("true", idempotency_key="k-1") == first


def test_two_processes_of_a_function_leave_the_result_of_rank_0():
    job = ml.submit(lambda: int(os.environ["RANK"]), tasks_per_node=2, cpus=0.2)
    assert job.result(timeout=60) == 0
