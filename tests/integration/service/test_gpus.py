"""GPUs given to jobs by UUID: on eight of them, through the real binding and a fake driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlsched.errors import NeverFitsError

pytestmark = pytest.mark.needs_gcc
BUILD = Path(__file__).parents[2] / "fake_nvml" / "build.py"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("nvml")
    subprocess.run([sys.executable, BUILD, directory], check=True)
    return directory


@pytest.fixture
def state(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gpus.txt"
    subprocess.run([sys.executable, BUILD, "--state", path, "--gpus", "8"], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_NVML", str(path))
    return path


@pytest.fixture
def gpus(state: Path, home: Any) -> Any:
    assert state.exists()
    return home


def visible(home: Any, job: dict[str, Any]) -> list[str]:
    """What the process of a job saw, from the file that it wrote."""
    found = (home.path / job["name"]).read_text().strip()
    return found.split(",") if found else []


def hold(home: Any, name: str, gpus: int, **spec: Any) -> dict[str, Any]:
    """A job that notes its devices and then runs until it is cancelled."""
    script = 'printf %s "$CUDA_VISIBLE_DEVICES" > "$NOTE.new"; mv "$NOTE.new" "$NOTE"; sleep 300'
    document = {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "metadata": {"name": name},
        "spec": {
            "command": ["sh", "-c", script],
            "cpusPerTask": "100m",
            "gpusPerNode": gpus,
            **spec,
        },
    }
    environment = {"PATH": "/usr/bin:/bin", "NOTE": str(home.path / name)}
    found = home.client().call(
        "submit", document=document, environment=environment, workdir=str(home.path)
    )
    return dict(found["jobs"][0])


def noted(home: Any, job: dict[str, Any], poll: Any) -> list[str]:
    poll(lambda: (home.path / job["name"]).exists() or None)
    return visible(home, job)


def test_each_job_sees_its_own_gpus_and_a_cpu_job_sees_none(gpus: Any, poll: Any) -> None:
    first, second = hold(gpus, "first", 2), hold(gpus, "second", 3)
    none = hold(gpus, "none", 0)
    one, two = noted(gpus, first, poll), noted(gpus, second, poll)
    assert (len(one), len(two), noted(gpus, none, poll)) == (2, 3, [])
    assert set(one).isdisjoint(two)
    assert all(uuid.startswith("GPU-") for uuid in one + two)
    assert gpus.show("first")["gpus"] == one
    holders = gpus.client().call("gpus")["holders"]
    assert {uuid: holders[uuid] for uuid in one} == dict.fromkeys(one, "first")


def test_more_than_exist_is_refused_with_what_exists(gpus: Any) -> None:
    with pytest.raises(NeverFitsError, match=r"asks for 9 GPUs, and what exists is 8 x NVIDIA"):
        hold(gpus, "huge", 9)


def test_more_than_are_free_waits_and_says_for_what_and_for_whom(gpus: Any) -> None:
    hold(gpus, "holder", 6)
    gpus.wait("holder", "RUNNING")
    hold(gpus, "next", 4)
    told = gpus.client().call("why", job="next")
    assert told["reason"]["code"] == "WaitingForCapacity"
    assert "needs 4 GPUs: 2 of 8 free; held by holder (6)" in told["reason"]["message"]
    assert told["unblocks"][0] == "--gpus 2"
    gpus.client().call("cancel", jobs=["holder"], grace_s=0)
    gpus.wait("next", "RUNNING")


def test_a_restarted_service_knows_who_holds_what(gpus: Any, poll: Any) -> None:
    job = hold(gpus, "holder", 8)
    held = noted(gpus, job, poll)
    gpus.kill_service()
    assert gpus.show("holder")["gpus"] == held
    hold(gpus, "next", 1)
    assert gpus.show("next")["reason"]["evidence"]["holders"] == ["holder (8)"]


def test_a_lost_gpu_is_not_given_away_and_leaves_seven(gpus: Any, state: Path, poll: Any) -> None:
    lost = gpus.client().call("node")["devices"][3]["uuid"]
    append(state, "fail * 3 15")
    node = gpus.client().call("gpus")["node"]
    sick = {d["uuid"]: d["health_reason"] for d in node["devices"] if not d["healthy"]}
    assert list(sick) == [lost]
    job = hold(gpus, "seven", 7)
    assert lost not in noted(gpus, job, poll)
    hold(gpus, "one", 1)
    reason = gpus.show("one")["reason"]
    assert reason["code"] == "DevicesUnhealthy"
    assert "needs 1 GPU: 0 of 8 free, 1 unhealthy" in reason["message"]


def test_an_xid_keeps_new_jobs_away_as_soon_as_it_comes(gpus: Any, state: Path, poll: Any) -> None:
    ill = gpus.client().call("node")["devices"][2]["uuid"]
    append(state, "xid 2 79")

    def seen() -> list[str] | None:
        devices = gpus.client().call("node")["devices"]
        return [
            d["health_reason"] for d in devices if d["uuid"] == ill and not d["healthy"]
        ] or None

    assert "79" in poll(seen)[0]
    assert ill not in noted(gpus, hold(gpus, "seven", 7), poll)
    gpus.kill_service()
    assert seen(), "an event is told once: a new service must know of it"


def append(state: Path, line: str) -> None:
    changed = state.with_suffix(".new")
    changed.write_text(f"{state.read_text()}\n{line}\n")
    changed.rename(state)


def test_a_gang_gets_distinct_gpus_for_each_rank(gpus: Any, poll: Any) -> None:
    script = 'printf %s "$CUDA_VISIBLE_DEVICES" > "$NOTE.$RANK"'
    document = {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "spec": {
            "command": ["sh", "-c", script], "nodes": 2, "gpusPerNode": 4, "cpusPerTask": "100m",
        },
    }  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "NOTE": str(gpus.path / "rank")}
    found = gpus.client().call("submit", document=document, environment=environment, workdir="/")
    assert gpus.wait(found["jobs"][0]["name"])["state"] == "SUCCEEDED"
    seen = [(gpus.path / f"rank.{rank}").read_text().split(",") for rank in (0, 1)]
    assert [len(uuids) for uuids in seen] == [4, 4]
    assert len({*seen[0], *seen[1]}) == 8
