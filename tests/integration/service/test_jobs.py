"""Jobs through the real service: what a user relies on from submit to end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mlsched.errors import NeverFitsError, NotFoundError, SpecError


def test_the_record_of_a_job_from_submit_to_end(home: Any) -> None:
    job = home.submit("sh", "-c", "exit 4")
    ended = home.wait(job["name"])
    assert (ended["state"], ended["exit_code"]) == ("FAILED", 4)
    assert ended["reason"]["code"] == "ExitedWithError"
    assert ended["submitted_at"] <= ended["started_at"] <= ended["ended_at"]
    assert [a["cause"] for a in ended["attempts"]] == ["exited"]


def test_cancelling_in_the_moment_of_the_start_ends_the_job_and_leaves_nothing(
    home: Any, poll: Any
) -> None:
    for number in range(25):
        job = home.submit("sh", "-c", f"echo $$ > {home.path}/{number}; sleep 60", graceSeconds=5)
        home.client().call("cancel", jobs=[job["name"]], grace_s=1)
        assert home.wait(job["name"])["state"] == "CANCELLED"
        started = home.path / str(number)
        if started.exists() and started.read_text().strip():
            pid = int(started.read_text())
            poll(lambda pid=pid: not Path(f"/proc/{pid}").exists() or None)


def test_a_job_that_fails_is_tried_again_and_each_try_is_kept(home: Any) -> None:
    config = home.paths.config_file
    config.parent.mkdir(parents=True)
    config.write_text("[service]\nretry_delay_s = 0.01\n")
    script = f"echo x >> {home.path}/tries; [ $(wc -l < {home.path}/tries) -ge 3 ]"
    job = home.submit("sh", "-c", script, retries=5)
    ended = home.wait(job["name"])
    assert (ended["state"], ended["attempt"], ended["retries_left"]) == ("SUCCEEDED", 3, 3)
    assert [a["exit_code"] for a in ended["attempts"]] == [1, 1, 0]


def test_a_killed_supervisor_fails_the_job_and_its_children_go(home: Any, poll: Any) -> None:
    job = home.submit("sh", "-c", f"sleep 300 & echo $! > {home.path}/child; wait")
    shown = home.wait(job["name"], "RUNNING")
    child = int(poll(lambda: _read(home.path / "child")))
    claim = Path(shown["directory"]) / "run.json"
    import json

    os.kill(json.loads(claim.read_text())["pid"], signal.SIGKILL)
    ended = home.wait(job["name"], deadline_s=10)
    assert (ended["state"], ended["reason"]["code"]) == ("FAILED", "SupervisorLost")
    poll(lambda: not Path(f"/proc/{child}").exists() or None, 10)


def _read(path: Path) -> str | None:
    return path.read_text().strip() or None if path.exists() else None


def test_the_same_key_gives_the_same_job(home: Any) -> None:
    document = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": {"command": ["true"]}}
    answers = [
        home.client().call("submit", document=document, idempotency_key="nightly-7", workdir="/")
        for _ in range(3)
    ]
    assert len({answer["jobs"][0]["id"] for answer in answers}) == 1
    assert [answer["created"] for answer in answers] == [True, False, False]


def test_a_gang_of_three_ranks_runs_together(home: Any) -> None:
    job = home.submit(
        "sh", "-c", f'echo "$RANK/$WORLD_SIZE $LOCAL_RANK $GROUP_RANK" > {home.path}/r$RANK',
        nodes=3, cpusPerTask="500m",
    )  # fmt: skip
    assert home.wait(job["name"])["state"] == "SUCCEEDED"
    told = [(home.path / f"r{rank}").read_text().strip() for rank in range(3)]
    assert told == ["0/3 0 0", "1/3 0 1", "2/3 0 2"]


def test_the_first_rank_that_fails_ends_the_others(home: Any) -> None:
    script = 'if [ "$RANK" = 1 ]; then exit 5; fi; sleep 60'
    job = home.submit("sh", "-c", script, nodes=2, cpusPerTask="500m", graceSeconds=2)
    ended = home.wait(job["name"])
    assert (ended["state"], ended["exit_code"]) == ("FAILED", 5)
    assert ended["reason"]["evidence"]["failed_rank"] == 1


def test_dependencies_decide_what_runs(home: Any) -> None:
    first = home.submit("sh", "-c", "sleep 0.3; exit 1")["name"]
    good = home.submit("true", after=[f"{first}:ok"])["name"]
    bad = home.submit("true", after=[f"{first}:fail"])["name"]
    both = home.submit("true", after=[f"{first}:any", f"{bad}:ok"])["name"]
    assert home.wait(good)["reason"]["code"] == "DependencyFailed"
    assert [home.wait(name)["state"] for name in (good, bad, both)] == [
        "CANCELLED", "SUCCEEDED", "SUCCEEDED",
    ]  # fmt: skip


def test_a_dependency_on_nothing_is_refused(home: Any) -> None:
    with pytest.raises(SpecError, match="no job 'nobody'"):
        home.submit("true", after=["nobody"])


def test_more_than_exists_is_refused_and_nothing_is_stored(home: Any) -> None:
    with pytest.raises(NeverFitsError, match="what exists is"):
        home.submit("true", cpusPerTask=4096)
    assert home.client().call("list", all=True)["jobs"] == []


def test_a_preview_stores_nothing_and_tells_what_would_be(home: Any) -> None:
    document = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": {"command": ["true"]}}
    told = home.client().call("preview", document=document, workdir="/tmp")
    assert (told["starts_now"], told["reason"]) == (True, None)
    assert told["document"]["spec"]["workdir"] == "/tmp"
    big = {**document, "spec": {"command": ["true"], "gpusPerNode": 64}}
    told = home.client().call("preview", document=big)
    assert (told["starts_now"], told["reason"]["code"]) == (False, "NeverFits")
    assert home.client().call("list", all=True)["jobs"] == []


def test_an_environment_that_exec_would_refuse_is_refused_at_submit(home: Any) -> None:
    document = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": {"command": ["true"]}}
    environment = {**home.env, "HUGE": "x" * 140_000}
    with pytest.raises(SpecError, match="HUGE: 140005 bytes, at most 131071"):
        home.client().call("submit", document=document, environment=environment, workdir="/")


def test_an_environment_larger_than_the_kernel_allows_fails_the_job_with_the_reason(
    home: Any,
) -> None:
    document = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": {"command": ["true"]}}
    environment = {**home.env, **{f"V{n}": "x" * 120_000 for n in range(30)}}
    found = home.client().call("submit", document=document, environment=environment, workdir="/")
    ended = home.wait(found["jobs"][0]["name"])
    assert (ended["state"], ended["reason"]["code"]) == ("FAILED", "CannotStart")
    assert "larger than the kernel allows" in ended["reason"]["message"]


def test_an_array_is_one_row_and_ends_as_its_worst_element(home: Any) -> None:
    job = home.submit(
        "sh", "-c", "exit $MLSCHED_ARRAY_INDEX", array={"indices": [0, 2, 7]}, cpusPerTask="100m"
    )
    ended = home.wait(job["name"])
    assert (ended["state"], ended["exit_code"]) == ("FAILED", 7)
    rows = home.client().call("list", all=True)["jobs"]
    assert [(row["name"], row["array"]["size"]) for row in rows] == [(job["name"], 3)]
    assert home.show(f"{job['name']}[2]")["exit_code"] == 2


def test_what_is_not_there_is_not_found(home: Any) -> None:
    for op in ("show", "why", "retry"):
        with pytest.raises(NotFoundError):
            home.client().call(op, job="nobody")
    with pytest.raises(NotFoundError):
        home.client().call("cancel", jobs=["nobody"])


def test_an_element_of_an_array_is_found_by_its_id_too(home: Any) -> None:
    job = home.submit("true", array={"indices": [0, 1]}, cpusPerTask="100m")
    home.wait(job["name"])
    element = home.show(f"{job['name']}[1]")
    assert home.show(element["id"])["name"] == element["name"]
    assert home.show(job["id"])["name"] == job["name"]


def test_watching_ends_at_its_deadline_and_says_so(home: Any) -> None:
    job = home.submit("sleep", "60", graceSeconds=1)
    stream = home.client().stream("watch", jobs=[job["name"]], until="ended", timeout_s=0.5)
    with stream:
        states = [event["state"] for event in stream]
        assert stream.result == {"timed_out": True}
    assert states[-1] in ("STARTING", "RUNNING")
