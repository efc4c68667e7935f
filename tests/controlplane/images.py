"""Images of the pods on real nodes, packed without a daemon and without a registry.

``pack("mlsched.io/app:1", Path("app.tar"), [layer(folder)])`` writes an OCI archive that
containerd imports. The two base images are built once a machine by ``make controlplane``:
PAUSE, the sandbox's program, and PYTHON, a Debian with python3, pip, certificates and wget, which
probes of pods call; any user can run python3 in it. Standard library only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.controlplane import binaries

PAUSE = "mlsched.io/pause:1"
PYTHON = "mlsched.io/python:1"
SUITE = "bookworm"
PACKAGES = "python3,python3-pip,ca-certificates,wget"
UNNEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt")
"""A third of the bytes; nothing that a job reads."""

RECIPE = 1
"""Raised when what is built changes by more than the words above."""

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
PAUSE_SOURCE = r"""
#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>
static void end(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap);
  for (;;) pause();
}
"""
_MEDIA = "application/vnd.oci.image"
_PLATFORM = {"architecture": "amd64", "os": "linux"}


@dataclass(frozen=True)
class Layer:
    """One layer of an image: an uncompressed tar, which packs and imports fastest."""

    path: Path | None
    digest: str
    size: int

    @property
    def descriptor(self) -> dict[str, Any]:
        """How the manifest names it."""
        kind = f"{_MEDIA}.layer.v1.tar"
        return {"mediaType": kind, "digest": f"sha256:{self.digest}", "size": self.size}


def layer(source: Path, out: Path, at: str = "") -> Layer:
    """Pack a folder's content, or one file, below a path of the image; owned by root."""

    def owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry in sorted(source.iterdir()) if source.is_dir() else [source]:
            tar.add(entry, arcname=str(Path(at) / entry.name), filter=owned_by_root)
    return read_layer(out)


def read_layer(path: Path) -> Layer:
    """A layer from a tar that is there."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Layer(path, digest, path.stat().st_size)


def read_layers(archive: Path) -> list[Layer]:
    """The layers of an archive that `pack` wrote, without their content."""

    def read(tar: tarfile.TarFile, name: str) -> Any:
        file = tar.extractfile(name)
        assert file is not None, f"{archive} has no {name}"
        return json.load(file)

    with tarfile.open(archive) as tar:
        (entry,) = read(tar, "index.json")["manifests"]
        digest = entry["digest"].removeprefix("sha256:")
        found = read(tar, f"blobs/sha256/{digest}")["layers"]
    return [Layer(None, one["digest"].removeprefix("sha256:"), one["size"]) for one in found]


def pack(
    name: str,
    out: Path,
    layers: Sequence[Layer],
    entrypoint: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Path:
    """Write an OCI archive of one image, the lowest layer first.

    Layers without a path are left out: nodes have them, by an image that was imported before.
    """
    variables = {"PATH": PATH, **(env or {})}
    config = {
        **_PLATFORM,
        "config": {
            "Env": [f"{key}={value}" for key, value in variables.items()],
            "Entrypoint": list(entrypoint) or None,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each.digest}" for each in layers]},
    }
    with tarfile.open(out, "w") as tar:
        for each in layers:
            if each.path is not None:
                tar.add(each.path, arcname=f"blobs/sha256/{each.digest}")
        config_entry = _add_blob(tar, config, f"{_MEDIA}.config.v1+json")
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": config_entry,
            "layers": [each.descriptor for each in layers],
        }
        entry = _add_blob(tar, manifest, f"{_MEDIA}.manifest.v1+json")
        entry["annotations"] = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return out


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _add_blob(tar: tarfile.TarFile, content: Any, kind: str) -> dict[str, Any]:
    raw = json.dumps(content).encode()
    digest = hashlib.sha256(raw).hexdigest()
    _add(tar, f"blobs/sha256/{digest}", raw)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(raw)}


def folder() -> Path:
    """Where the base images are kept: a new folder for each recipe."""
    recipe = repr((PAUSE_SOURCE, SUITE, PACKAGES, UNNEEDED, RECIPE))
    return binaries.cache() / f"images-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def pause_archive() -> Path:
    """The sandbox's image."""
    return folder() / "pause.tar"


def python_archive() -> Path:
    """The image with Python."""
    return folder() / "python.tar"


def python_layer() -> Layer:
    """The Debian below images of one's own: ``pack(name, out, [python_layer(), layer(...)])``."""
    return read_layer(folder() / "python-layer.tar")


def are_built() -> bool:
    """Whether the base images are there."""
    return pause_archive().is_file() and python_archive().is_file()


def obstacle() -> str | None:
    """Why the images cannot be built here; None when they can."""
    if os.geteuid() != 0:
        return "installing a Debian needs root"
    absent = [name for name in ("gcc", "debootstrap") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


def build() -> None:
    """Build the base images into their folder, in one step at the end."""
    for left in binaries.cache().glob(".images-*"):
        shutil.rmtree(left)
    new = Path(tempfile.mkdtemp(prefix=".images-", dir=binaries.cache()))
    program = new / "pause"
    compiler = ["gcc", "-O2", "-static", "-Wall", "-x", "c", "-o", str(program), "-"]
    subprocess.run(compiler, input=PAUSE_SOURCE.encode(), check=True)
    packed = layer(program, new / "pause-layer.tar")
    pack(PAUSE, new / "pause.tar", [packed], ["/pause"])
    root = new / "root"
    words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
    run(words)
    for name in UNNEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
    packed = layer(root, new / "python-layer.tar")
    pack(PYTHON, new / "python.tar", [packed])
    shutil.rmtree(root)
    new.chmod(0o755)
    new.replace(folder())


def run(words: Sequence[str]) -> None:
    """Run a program.

    Raises:
        OSError: It failed; the message ends with what it said last.
    """
    found = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if found.returncode:
        said = "\n".join(found.stdout.splitlines()[-15:])
        raise OSError(f"{words[0]} failed:\n{said}")
