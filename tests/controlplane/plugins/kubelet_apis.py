"""gRPC interfaces of the kubelet, made from the .proto files of its Go module at start.

Needs grpcio-tools, and the Go module k8s.io/kubelet, which the wrapper module ``kube`` requires.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc

from tests.controlplane.binaries import MODULES

MODULE = "k8s.io/kubelet"


def find() -> Path | None:
    """The folder of the .proto files; None where the module is not in Go's cache."""
    argv = ["go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", MODULE]
    try:
        found = subprocess.run(
            argv, cwd=MODULES / "kube", capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        return None
    folder = Path(found.stdout.strip()) / "pkg" / "apis"
    return folder if found.returncode == 0 and folder.is_dir() else None


def missing() -> str | None:
    """Why the plugins cannot run here, with what to do; None when they can."""
    if find_spec("grpc_tools") is None:
        return "the plugins of the kubelet need grpcio-tools"
    return None if find() else f"the Go module {MODULE} is not there: run `make controlplane`"


def load(apis: Path, proto: str) -> tuple[Any, Any]:
    """The messages and the services of a .proto file."""
    if str(apis) not in sys.path:
        sys.path.insert(0, str(apis))
    return grpc.protos_and_services(proto)  # type: ignore[attr-defined]


def serve(path: Path, add: Any, servicer: Any) -> grpc.Server:
    """Serve on a socket; the server must be kept, else its socket goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = grpc.server(ThreadPoolExecutor(8))
    add(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server
