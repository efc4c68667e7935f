"""A Ceph of one node with an S3 gateway: real, on free ports of 127.0.0.1, gone with its owner.

    with Ceph() as ceph:
        ceph.gateway.environment()      # what an S3 client needs
        ceph.gateway.admin("user", "info", "--uid=tester")

A monitor, one BlueStore OSD on a sparse file and radosgw, all in one directory below /tmp; no
manager, which only gathers statistics. Authentication inside Ceph is off, S3's is on. About 10 s
and 140 MB at the start.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.controlplane.processes import Process, Processes

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
COMMAND_S_MAX = 60.0
START_S_MAX = 90.0
DISK_BYTES = 6 << 30

_CONFIG = """\
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon_port}
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# Connections are encrypted by default, which needs keys.
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_client_mode = crc
ms_service_mode = crc
ms_bind_ipv6 = false
ms_bind_msgr1 = false
run_dir = {root}
admin_socket = {root}/$name.$pid.asok
log_file = {root}/$name.log
mon_cluster_log_file = {root}/cluster.log
keyring = {root}/keyring
mon_data = {root}/mon
osd_data = {root}/osd
rgw_data = {root}/rgw
# Disks of test machines are often nearly full.
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 2
osd_pool_default_pgp_num = 2
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_crush_update_on_start = false
osd_objectstore = bluestore
osd_memory_target = 939524096
bluestore_block_size = {disk_bytes}
rgw_thread_pool_size = 64
[client.rgw.a]
# Without tcp_nodelay small GETs take 50 ms: 19 a second in place of 293.
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
"""


def missing() -> str | None:
    """Why Ceph cannot run here; None when it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if not absent:
        return None
    return f"Ceph is not installed (ceph-mon ceph-osd radosgw ceph-common): no {absent[0]}"


@dataclass(frozen=True)
class Gateway:
    """How a client reaches the S3 of a Ceph that runs.

    Attributes:
        config: Ceph's configuration file, for its own tools.
        start_s: How long it took to start.
    """

    endpoint: str
    access_key: str
    secret_key: str
    config: str
    start_s: float

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Gateway:
        """What `to_json` wrote."""
        return cls(**json.loads(text))

    def environment(self) -> dict[str, str]:
        """Variables that S3 clients understand."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A boto3 client, which has nothing in common with the code under test but the keys."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                retries={"max_attempts": 2},
            ),
        )

    def admin(self, *argv: str) -> Any:
        """Run radosgw-admin; the JSON that it answers, or None. Takes about a second."""
        text = _run(Path(self.config), "radosgw-admin", *argv)
        return json.loads(text) if text.strip() else None


class Ceph:
    """A running Ceph; it ends, and its directory goes, when its process does."""

    def __init__(self) -> None:
        began = time.monotonic()
        self.processes = Processes("mlsched-ceph-")
        self.root = self.processes.directory
        self.config = self.root / "ceph.conf"
        try:
            self._start(began)
        except BaseException:
            self.processes.stop()
            raise

    def _start(self, began: float) -> None:
        fsid, mon_port, port = str(uuid.uuid4()), free_port(), free_port()
        values = {"fsid": fsid, "mon_port": mon_port, "port": port, "root": self.root}
        self.config.write_text(_CONFIG.format(disk_bytes=DISK_BYTES, **values))
        (self.root / "keyring").touch()
        for folder in ("mon", "osd", "rgw"):
            (self.root / folder).mkdir()
        self.mon = self._start_mon(fsid, mon_port)
        self.osd = self._start_osd()
        self.rgw = self.start_rgw()
        endpoint = f"http://127.0.0.1:{port}"
        self.processes.wait_until(
            "the gateway answers", lambda: _answers(endpoint), self.rgw, seconds=START_S_MAX
        )
        keys = "AK" + secrets.token_hex(9).upper(), secrets.token_urlsafe(30)
        _run(
            self.config,
            *("radosgw-admin", "user", "create", "--uid=tester", "--display-name=tester"),
            *(f"--access-key={keys[0]}", f"--secret-key={keys[1]}", "--max-buckets=0"),
        )
        self.gateway = Gateway(endpoint, *keys, str(self.config), time.monotonic() - began)

    def _start_mon(self, fsid: str, port: int) -> Process:
        monmap = str(self.root / "monmap")
        where = f"[v2:127.0.0.1:{port}]"
        _run(self.config, "monmaptool", "--create", "--addv", "a", where, "--fsid", fsid, monmap)
        _run(self.config, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        return self._start_daemon("mon", "ceph-mon", "-f", "-i", "a")

    def _start_osd(self) -> Process:
        disk = str(uuid.uuid4())
        _run(self.config, "ceph", "osd", "new", disk)
        _run(self.config, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        place = ("1.0", "host=localhost", "root=default")
        _run(self.config, "ceph", "osd", "crush", "create-or-move", "osd.0", *place)
        return self._start_daemon("osd", "ceph-osd", "-f", "-i", "0")

    def start_rgw(self) -> Process:
        """Start the gateway, at the port that it always has."""
        return self._start_daemon("rgw", "radosgw", "-f", "-n", "client.rgw.a")

    def _start_daemon(self, name: str, *argv: str) -> Process:
        return self.processes.start(f"{name}.out", argv, CEPH_CONF=str(self.config))

    def __enter__(self) -> Ceph:
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.stop()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(config: Path, *argv: str) -> str:
    """Run one of Ceph's tools; what it wrote."""
    done = subprocess.run(
        argv,
        env={**os.environ, "CEPH_CONF": str(config)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
