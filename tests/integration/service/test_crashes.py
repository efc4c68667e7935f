"""The service dies at any moment: no job is lost, none starts twice, no end is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from typing import Any

import pytest

from mlsched.errors import MlschedError

ROUNDS = 100
WITNESS = 'echo "$MLSCHED_JOB_ID $MLSCHED_ATTEMPT" >> "$WITNESS"; {sleep}; exit {code}'


def submit_one(home: Any, rng: random.Random, number: int, acknowledged: dict[str, int]) -> None:
    code = rng.choice([0, 0, 1, 7])
    sleep = rng.choice([":", ":", "sleep 0.05", "sleep 0.3"])
    script = WITNESS.format(sleep=sleep, code=code)
    try:
        client = home.client()
        document = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "MLJob",
            "metadata": {"name": f"job-{number}"},
            "spec": {"command": ["sh", "-c", script], "cpusPerTask": "100m"},
        }
        found = client.call(
            "submit",
            document=document,
            environment={**home.env, "WITNESS": str(home.witness)},
            workdir=str(home.path),
            idempotency_key=f"key-{number}",
        )
    except MlschedError:
        return
    acknowledged[found["jobs"][0]["id"]] = code


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kill_9_at_a_hundred_random_moments(home: Any, poll: Any) -> None:
    rng = random.Random(20261126)
    acknowledged: dict[str, int] = {}
    number = 0
    for _ in range(ROUNDS):
        pid = home.service_pid()
        timer = threading.Timer(rng.random() * 0.25, os.kill, (pid, signal.SIGKILL))
        timer.start()
        for _ in range(rng.randrange(1, 5)):
            submit_one(home, rng, number, acknowledged)
            number += 1
        timer.join()
    assert len(acknowledged) > ROUNDS

    def all_ended() -> bool | None:
        return None if home.client().call("list")["jobs"] else True

    poll(all_ended, 120)
    found = {job["id"]: job for job in home.client().call("list", all=True, limit=5000)["jobs"]}
    lost = [job_id for job_id in acknowledged if job_id not in found]
    assert lost == []
    wrong = [found[i] for i, code in acknowledged.items() if found[i]["exit_code"] != code]
    assert wrong == []
    starts = Counter(home.witness.read_text().splitlines())
    assert [line for line, count in starts.items() if count > 1] == []
    started_jobs = Counter(line.split()[0] for line in starts)
    assert [job_id for job_id in acknowledged if started_jobs[job_id] != 1] == []


def test_jobs_run_on_while_the_service_is_dead_and_their_end_is_known_after(home: Any) -> None:
    job = home.submit("sh", "-c", "sleep 1; exit 9")
    home.wait(job["name"], "RUNNING")
    home.kill_service()
    ended = home.wait(job["name"])
    assert (ended["state"], ended["exit_code"], ended["attempt"]) == ("FAILED", 9, 1)


def test_a_job_that_ended_while_nobody_watched_is_told_truly(home: Any, poll: Any) -> None:
    job = home.submit("sh", "-c", f"sleep 0.5; touch {home.path}/done")
    home.wait(job["name"], "RUNNING")
    home.kill_service()
    poll(lambda: (home.path / "done").exists() or None)
    assert home.wait(job["name"])["state"] == "SUCCEEDED"


def test_a_running_job_is_adopted_with_its_devices_and_can_still_be_cancelled(home: Any) -> None:
    job = home.submit("sleep", "100", graceSeconds=5)
    before = home.wait(job["name"], "RUNNING")
    home.kill_service()
    after = home.wait(job["name"], "RUNNING")
    assert (after["attempt"], after["started_at"]) == (1, before["started_at"])
    home.client().call("cancel", jobs=[job["name"]])
    assert home.wait(job["name"])["state"] == "CANCELLED"
