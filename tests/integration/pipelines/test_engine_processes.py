"""The processes, sockets and files of remote engines: what they are, and that none stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from mlsched.errors import ConfigError, PipelineError, UnreachableError
from mlsched_pipelines import Call, Engine, Outcome
from mlsched_pipelines.members.certificates import write_certificate
from mlsched_pipelines.starting import check_versions, make_version_probe, start_engine

pytestmark = pytest.mark.timeout(300)

GONE_S_MAX = 10.0
CONNECT_TIME = "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"
"""How long Dask tries to connect."""

DRIVER = """
import os, pathlib, sys, time
from mlsched_pipelines import Call
from mlsched_pipelines.starting import start_engine

def stay(shared, folder):
    (folder / f"pid{os.getpid()}").touch()
    time.sleep(1000)

name, folder, how = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
with start_engine(name, workers=2) as engine:
    shared = engine.put_ref(None)
    if how == "close":
        engine.submit(Call("t", pow, shared, 1))
        print("started", flush=True)
        engine.wait_any()
        raise SystemExit(bool({"ray", "distributed"} & set(sys.modules)))
    for number in range(2):
        engine.submit(Call(f"t{number}", stay, shared, folder))
    while len(list(folder.glob("pid*"))) < 2:
        time.sleep(0.01)
    if how == "fork" and os.fork() == 0:
        time.sleep(1000)
    print("started", flush=True)
    if how == "exit":
        sys.exit(3)
    engine.wait_any()
"""


class Driver:
    """A process that has an engine with two calls under way."""

    def __init__(self, name: str, folder: Path, how: str) -> None:
        self.folder = folder / "tmp"
        self.folder.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", DRIVER, name, str(folder), how],
            env=os.environ | {"TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said == "started\n", self.process.communicate()[1]
        tree = psutil.Process(self.process.pid).children(recursive=True)
        self.tree = [p for p in tree if os.getsid(p.pid) != self.process.pid]

    def wait_gone(self) -> float:
        """Seconds until no process of its tree was left."""
        start = time.monotonic()
        _, left = psutil.wait_procs(self.tree, GONE_S_MAX)
        assert left == []
        return time.monotonic() - start


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a path so short that the engine puts its own into it."""
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(params=["dask", "ray"])
def name(request: pytest.FixtureRequest) -> str:
    """Which engine."""
    found: str = request.param
    return found


def interrupt_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


ENDS: dict[str, tuple[Callable[[subprocess.Popen[str]], None], int]] = {
    "interrupt of the group": (interrupt_group, -signal.SIGINT),
    "interrupt": (interrupt, -signal.SIGINT),
    "terminate": (lambda process: process.terminate(), -signal.SIGTERM),
    "kill": (lambda process: process.kill(), -signal.SIGKILL),
    "exit": (lambda process: None, 3),
    "close": (lambda process: None, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_no_process_and_no_file_is_left(name: str, end: str, folder: Path) -> None:
    driver = Driver(name, folder, end)
    assert len(driver.tree) >= 4
    stop, code = ENDS[end]
    stop(driver.process)
    _, errors = driver.process.communicate(timeout=60)
    print(f"{name}, {end}: all gone {driver.wait_gone():.2f} s after the driver")
    assert driver.process.returncode == code
    assert errors == "" or "KeyboardInterrupt" in errors
    assert list(driver.folder.iterdir()) == []


@pytest.mark.slow
def test_a_child_that_the_driver_forked_keeps_nothing_alive(folder: Path) -> None:
    driver = Driver("dask", folder, "fork")
    driver.process.kill()
    driver.process.wait()
    driver.wait_gone()
    os.killpg(driver.process.pid, signal.SIGKILL)
    driver.process.communicate()
    assert list(driver.folder.iterdir()) == []


FORKS = """
import os, sys, time
import psutil
from mlsched_pipelines.starting import start_engine

engine = start_engine(sys.argv[1], workers=1)
tree = psutil.Process().children(recursive=True)
child = os.fork()
if not child:
    time.sleep(1000)
begun = time.monotonic()
engine.close()
left = [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
print(time.monotonic() - begun < 10, len(tree) > 2, left)
os.kill(child, 9)
"""


@pytest.mark.slow
def test_an_engine_that_is_closed_ends_although_a_forked_child_lives(name: str) -> None:
    program = [sys.executable, "-W", "error", "-c", FORKS, name]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "True True []\n", done.stderr


def interrupt_own(shared: object, argument: object) -> None:
    """A call in whose worker Dask ends the loop, but not the process."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1000)


@pytest.mark.slow
def test_a_worker_that_dask_gives_up_is_started_again() -> None:
    with start_engine("dask", workers=1) as engine:
        shared = engine.put_ref(1)
        engine.submit(Call("lost", interrupt_own, shared, None))
        assert "died 3 times" in str(collect(engine, 1)["lost"].error)
        engine.submit(Call("t", lambda a, b: a + b, shared, 1))
        assert collect(engine, 1)["t"].value == 2


@pytest.mark.slow
def test_dask_settings_of_the_site_are_not_for_a_cluster_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config" / "dask").mkdir(parents=True)
    preload = {"preload": ["no_such_module"]}
    settings = {"distributed": dict.fromkeys(("scheduler", "nanny", "worker"), preload)}
    (tmp_path / ".config" / "dask" / "site.yaml").write_text(json.dumps(settings))
    others = list_children()
    with start_engine("dask", workers=1) as engine:
        engine.submit(Call("t", lambda a, b: a + b, engine.put_ref(1), 1))
        assert collect(engine, 1)["t"].value == 2
        for process in list_children() - others:
            for found in process.net_connections("inet"):
                if found.status == psutil.CONN_LISTEN:
                    with pytest.raises(OSError):  # noqa: PT011 - refused, or no such page
                        urlopen(f"http://127.0.0.1:{found.laddr.port}/metrics", timeout=10)


def list_children() -> set[psutil.Process]:
    """All that this process has started; the servers of other tests are among them."""
    return set(psutil.Process().children(recursive=True))


def list_listeners(tree: Iterable[psutil.Process]) -> list[str]:
    addresses = []
    for process in tree:
        for found in process.net_connections("inet"):
            if found.status == psutil.CONN_LISTEN:
                addresses.append(found.laddr.ip)
    return addresses


def get_pid(shared: object, argument: object) -> tuple[int, str, list[str]]:
    """A call that tells about its process."""
    return os.getpid(), str(Path.cwd()), sys.path


def collect(engine: Engine, count: int) -> dict[str, Outcome]:
    found: list[Outcome] = []
    while len(found) < count:
        found.extend(engine.wait_any(60))
    return {outcome.task_id: outcome for outcome in found}


def fill_memory(shared: object, size_bytes: int) -> int:
    """A call that takes memory in small steps."""
    held = []
    for _ in range(size_bytes >> 20):
        held.append(bytearray(os.urandom(1 << 20)))
        time.sleep(0.0005)
    return len(held)


@pytest.mark.slow
def test_a_cluster_of_our_own_is_private_and_bounded(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    environment, others = dict(os.environ), list_children()
    with start_engine(name, workers=2, memory_max_bytes=1 << 30) as engine:
        shared = engine.put_ref(None)
        for number in range(2):
            engine.submit(Call(f"t{number}", get_pid, shared, None))
        _, where, path = collect(engine, 2)["t0"].value
        assert where == str(Path.cwd())
        assert path == [str(Path(entry).absolute()) for entry in sys.path]
        listeners = list_listeners(list_children() - others)
        assert listeners
        assert {address.removeprefix("::ffff:") for address in listeners} == {"127.0.0.1"}
        assert [found.stat().st_mode & 0o777 for found in folder.iterdir()] == [0o700]
        engine.submit(Call("small", fill_memory, shared, 50 << 20))
        assert collect(engine, 1)["small"].value == 50
        engine.submit(Call("large", fill_memory, shared, 2 << 30))
        error = collect(engine, 1)["large"].error
    assert isinstance(error, PipelineError)
    assert "MiB each" in str(error)
    assert list(folder.iterdir()) == []
    assert dict(os.environ) == environment


@pytest.mark.parametrize(
    "text", ["", "spark", "dask:/host:1", "ray://host", "dask://:8786", "dask://host:port", "Ray"]
)
def test_an_unknown_engine_is_told_what_there_is(text: str) -> None:
    with pytest.raises(ConfigError) as found:
        start_engine(text)
    assert "dask://HOST:PORT" in found.value.hint


def test_the_local_engine_has_no_memory_limit() -> None:
    with start_engine("local", workers=3) as engine:
        assert engine.slots == 3
    with pytest.raises(ConfigError, match="no bound on memory"):
        start_engine("local", memory_max_bytes=1 << 30)


@pytest.mark.parametrize("scheme", ["dask", "tls"])
def test_nobody_at_an_address_is_unreachable(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECT_TIME, "2s")
    with pytest.raises((UnreachableError, ConfigError), match=r"127\.0\.0\.1:9"):
        start_engine(f"{scheme}://127.0.0.1:9")


@pytest.mark.slow
def test_a_dashboard_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECT_TIME, "2s")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UnreachableError, match="what listens is none") as found:
            start_engine(f"dask://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "dashboard" in found.value.hint


def test_other_versions_are_refused() -> None:
    ours = make_version_probe()()
    check_versions("the cluster", {"a": ours})
    with pytest.raises(ConfigError, match=r"Worker b of the cluster has pyarrow 1\.0, here it is"):
        check_versions("the cluster", {"a": ours, "b": ours | {"pyarrow": "1.0"}})


@contextmanager
def running(*command: str, folder: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A process with all that it starts, in a directory of its own."""
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            text=True,
            start_new_session=True,
            cwd=folder,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(folder)} | env,
        )
    try:
        yield process
    finally:
        kill_session(process)


def kill_session(leader: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started, which may be in groups of their own."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader.pid:
                os.kill(pid, signal.SIGKILL)
    leader.wait(20)


def wait_for(found: Callable[[], bool], timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < until
        time.sleep(0.02)


def stay(shared: object, folder: Path) -> None:
    """A call that lasts."""
    (folder / "begun").touch()
    time.sleep(1000)


def check_lost(engine: Engine, folder: Path, cluster: subprocess.Popen[str]) -> None:
    """Kill a cluster under a call; this and each later call is told so."""
    shared = engine.put_ref(None)
    engine.submit(Call("lasts", stay, shared, folder))
    wait_for((folder / "begun").exists)
    for number in range(engine.slots + 1):
        engine.submit(Call(f"t{number}", stay, shared, folder))
    kill_session(cluster)
    start = time.monotonic()
    found = collect(engine, engine.slots + 2)
    print(f"loss told after {time.monotonic() - start:.1f} s")
    engine.submit(Call("later", stay, shared, folder))
    for outcome in [*found.values(), *collect(engine, 1).values()]:
        assert isinstance(outcome.error, UnreachableError)


@pytest.mark.slow
def test_an_existing_dask_cluster_is_used_and_its_loss_told(folder: Path, tmp_path: Path) -> None:
    address_file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    scheduler = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with running(
        *dask, "scheduler", *scheduler, "--scheduler-file", str(address_file), folder=folder
    ) as process:
        wait_for(address_file.exists)
        worker = ["--scheduler-file", str(address_file), "--nworkers", "2", "--nthreads", "1"]
        other = folder / "worker"
        other.mkdir()
        with running(*dask, "worker", *worker, "--no-dashboard", folder=other):
            address = json.loads(address_file.read_text())["address"]
            with start_engine(address.replace("tcp://", "dask://")) as engine:
                assert 1 <= engine.slots <= 2
                shared = engine.put_ref(10)
                engine.submit(Call("t", lambda a, b: a + b, shared, 1))
                assert collect(engine, 1)["t"].value == 11
                check_lost(engine, folder, process)


def use_certificate(token: str, folder: Path) -> dict[str, str]:
    """Dask's settings for a cluster whose members and clients share one certificate."""
    folder.mkdir()
    key, certificate = write_certificate(token, str(folder))
    roles = {
        f"{role}__{kind}": path
        for role in ("CLIENT", "SCHEDULER", "WORKER")
        for kind, path in (("KEY", key), ("CERT", certificate))
    }
    paths = {"CA_FILE": certificate, **roles}
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": path for name, path in paths.items()}


@pytest.mark.slow
def test_a_dask_cluster_with_tls_is_used_by_who_has_its_certificate(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = use_certificate("5e" * 32, tmp_path / "own")
    other = use_certificate("00" * 32, tmp_path / "other")
    file, dask = tmp_path / "scheduler.json", [sys.executable, "-m", "dask"]
    serve = ["scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0"]
    serve += ["--no-dashboard", "--scheduler-file", str(file)]
    work = ["worker", "--scheduler-file", str(file), "--nthreads", "2", "--no-dashboard"]
    (folder / "worker").mkdir()
    with (
        running(*dask, *serve, folder=folder, **own),
        running(*dask, *work, "--memory-limit", "1GiB", folder=folder / "worker", **own),
    ):
        wait_for(file.exists)
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://")
        for name, path in own.items():
            monkeypatch.setenv(name, path)
        with start_engine(address) as engine:
            assert (engine.slots, engine.worker_memory_max_bytes) == (2, 1 << 30)
            engine.submit(Call("t", lambda a, b: a + b, engine.put_ref(10), 1))
            assert collect(engine, 1)["t"].value == 11
        for name, path in other.items():
            monkeypatch.setenv(name, path)
        with pytest.raises(UnreachableError) as found:
            start_engine(address)
        assert "certificates" in found.value.hint
