"""``mlsched gpus`` as a user types it: with a service, with a recording, and when it goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[4] / "shared" / "nvsmi"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home directory of one's own; its service is stopped in the end."""
    folder = tmp_path / "home"
    (folder / "run").mkdir(parents=True, mode=0o700)
    for name in [name for name in os.environ if name.startswith(("XDG_", "MLSCHED_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / "run"))
    yield folder
    if any(folder.rglob("service.log")):
        run("server", "stop")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlsched", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.needs_gcc
def test_gpus_of_this_machine_and_who_holds_them(driver, fake, home) -> None:
    driver.say(fake.machine(3), "fail * 1 15")
    assert run("submit", "-g", "1", "--name", "held", "--", "sleep", "60").returncode == 0
    assert run("wait", "held", "--for", "running", "--timeout", "20s").returncode == 0
    shown = run("gpus", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert [gpu["holder"] for gpu in found["gpus"]] == ["held", None, None]
    assert [gpu["health"]["verdict"] for gpu in found["gpus"]] == ["PASS", "CRITICAL", "PASS"]
    lost = found["gpus"][1]["environment"]["temperature_c"]
    assert (lost["value"], lost["status"]) == (None, "lost")
    table = run("gpus").stdout.splitlines()
    assert table[1].split()[-2:] == ["held", "PASS"]
    assert table[2].endswith("CRITICAL")
    assert table[4].startswith("GPU 1 CRITICAL: lost")
    run("cancel", "held")


def test_a_machine_without_nvml_says_so_in_one_line(home, monkeypatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    shown = run("gpus")
    assert shown.returncode == 0, shown.stderr
    if "UUID" in shown.stdout:
        pytest.skip("this machine has a driver")
    assert shown.stdout.count("\n") == 1
    assert shown.stdout.startswith("no NVIDIA driver library (libnvidia-ml.so.1)")
    assert run("gpus", "-o", "name").stdout == ""


@pytest.mark.needs_gcc
def test_a_recording_travels(driver, fake, home, monkeypatch) -> None:
    driver.say(fake.machine(2))
    made = run("gpus", "record", str(home / "gpus.json"))
    assert made.returncode == 0, made.stderr
    monkeypatch.delenv("LD_LIBRARY_PATH")
    shown = run("gpus", "--replay", str(home / "gpus.json"))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("H100 80GB HBM3") == 2
    assert not any(home.rglob("service.log")), "a replay needs no service"


@pytest.mark.needs_shared
def test_documents_of_nvidia_smi_are_shown(home) -> None:
    for path in sorted(SHARED.glob("*.xml")):
        shown = run("gpus", "--replay", str(path))
        assert shown.returncode == 0, shown.stderr
        assert max(map(len, shown.stdout.splitlines())) <= 80
    names = run("gpus", "--replay", str(SHARED / "nvidia-hw_qx-gb200.xml"), "-o", "name").stdout
    assert len(names.splitlines()) == 4
    plain = run("gpus", "--replay", str(SHARED / "nvidia-hw_qx-t4.xml"), "-o", "yaml").stdout
    assert "Tesla T4" in plain
    assert "!!" not in plain, "plain YAML, no Python types"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--replay", "/nonexistent"), 2, "cannot read /nonexistent"),
        (("--replay", __file__), 2, "expected a recording or the output of nvidia-smi -q -x"),
        (("-o", "tabel", "--replay", __file__), 2, "Did you mean table?"),
        (("record", "/nonexistent/file"), 1, "nothing to record"),
    ],
)
def test_what_goes_wrong_is_told(home, monkeypatch, tmp_path, words, code, message) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    shown = run("gpus", *words)
    assert (shown.returncode, shown.stdout) == (code, "")
    assert message in shown.stderr
    assert len(shown.stderr.splitlines()) <= 2


def test_help_loads_nothing_heavy(home) -> None:
    code = (
        "import sys; from mlsched.cli.main import main; main(['gpus', '--help']);"
        "print([m for m in ('pynvml', 'asyncio', 'msgspec', 'rich') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]", shown.stdout
