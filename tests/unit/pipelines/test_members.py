"""Who the processes of a gang are, the certificate that they share, and rank 0's helpers."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from mlsched.errors import ConfigError, UnreachableError
from mlsched_pipelines.members import (
    Member,
    forget_settings,
    helpers,
    host_port,
    private_folder,
    read_member,
)
from mlsched_pipelines.members.certificates import make_certificate, write_certificate

TOKEN = "5e" * 32
GANG = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_rank_knows_where_rank_0_is_and_how_it_is_reached_itself() -> None:
    found = read_member({**GANG, "MLSCHED_GANG_TOKEN": TOKEN}, 4, 1 << 30)
    assert found == Member(1, 3, "127.0.0.1", 29500, "127.0.0.1", 4, 1 << 30)
    assert host_port(found.head, found.port) == "127.0.0.1:29500"
    assert host_port("fd00::1", 29500) == "[fd00::1]:29500"


def test_a_job_of_one_process_needs_neither_rank_nor_token() -> None:
    assert read_member({}).size == 1


def test_a_gang_without_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="MLSCHED_GANG_TOKEN, which is not set") as told:
        read_member(GANG)
    assert "gangToken: true" in told.value.hint


def test_a_rank_0_without_an_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsched_pipelines.members.NAME_S_MAX", -1.0)
    named = {**GANG, "MLSCHED_GANG_TOKEN": TOKEN, "MASTER_ADDR": "node-0.invalid"}
    with pytest.raises(UnreachableError, match=r"'node-0.invalid' is not known"):
        read_member(named)


def test_all_members_make_the_same_certificate_and_others_another() -> None:
    pytest.importorskip("cryptography", reason="mlsched[dask] is not installed")
    assert make_certificate(TOKEN) == make_certificate(TOKEN)
    key, certificate = make_certificate(TOKEN)
    other_key, other = make_certificate("00" * 32)
    assert key != other_key
    assert certificate != other


def test_the_certificate_trusts_itself_and_no_other(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="mlsched[dask] is not installed")
    for name, token in (("ours", TOKEN), ("other", "00" * 32)):
        (tmp_path / name).mkdir()
        paths = write_certificate(token, str(tmp_path / name))
        assert {os.stat(path).st_mode & 0o777 for path in paths} == {0o600}  # noqa: PTH116
    assert _meet(tmp_path / "ours", tmp_path / "ours")
    with pytest.raises(ssl.SSLError):
        _meet(tmp_path / "ours", tmp_path / "other")


def _meet(server: Path, client: Path) -> bool:
    """Shake hands in memory; both sides want the certificate of their own folder."""
    sides = []
    for folder, is_server in ((server, True), (client, False)):
        kind = ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(kind)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "gang.pem")
        context.load_cert_chain(folder / "gang.pem", folder / "gang.key")
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides.append((context.wrap_bio(into, out, server_side=is_server), into, out))
    done = [False, False]
    for _ in range(10):
        for at, (side, _, out) in enumerate(sides):
            try:
                side.do_handshake()
                done[at] = True
            except ssl.SSLWantReadError:
                pass
            sides[1 - at][1].write(out.read())
    return all(done)


def test_a_private_folder_is_ours_and_goes() -> None:
    with private_folder() as folder:
        assert Path(folder).stat().st_mode & 0o077 == 0
        assert len(folder) <= 30
    assert not Path(folder).exists()


def test_settings_of_a_framework_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER__WORK_STEALING", "1")
    forget_settings("DASK_")
    assert not [name for name in os.environ if name.startswith("DASK_")]


def test_a_helper_that_ends_early_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _be(monkeypatch, "import sys; sys.exit(3)")
    helped = helpers.helped("dask", ["scheduler"], Member(0, 2, "h", 1, "h"))
    with pytest.raises(UnreachableError, match="one of its processes ended"), helped:
        raise AssertionError("it did not become ready")


def test_helpers_end_with_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; os.write(int(sys.argv[-1]), b'ready\\n'); os.read(0, 1)"
    started = _be(monkeypatch, code)
    with helpers.helped("dask", ["scheduler", "worker"], Member(0, 2, "h", 1, "h")):
        assert [one.poll() for one in started] == [None, None]
    assert [one.returncode for one in started] == [0, 0]


def test_members_that_do_not_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "MEMBERS_S_MAX", 0.1)
    started = _be(monkeypatch, "import os; os.read(0, 1)")
    helped = helpers.helped("dask", ["scheduler"], Member(0, 2, "h", 1, "h"))
    with pytest.raises(UnreachableError, match="Not all 2 members"), helped:
        raise AssertionError("it did not become ready")
    assert [one.returncode for one in started] == [0]


def _be(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.Popen[bytes]]:
    """Let helpers be a small program; all that are started."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(words: list[str], **options: object) -> subprocess.Popen[bytes]:
        made: subprocess.Popen[bytes] = real([sys.executable, "-c", code, words[-1]], **options)  # type: ignore[call-overload]
        started.append(made)
        return made

    monkeypatch.setattr(helpers.subprocess, "Popen", start)
    return started
