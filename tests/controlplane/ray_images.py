"""The image of Ray's pods: the image with Python, ray[default] and what mlsched needs, locked.

Built once a machine by ``make controlplane``. Standard library and pip only. Raise RECIPE when what
is built changes by more than the requirements.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tests.controlplane import binaries, images

RAY = "mlsched.io/ray:1"
PYTHON_VERSION = "3.11"
"""Of the Debian below; pip takes the wheels for it, whichever Python runs pip."""

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "ray-image.txt"
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
UNNEEDED = ("ray/cpp", "ray/jars", "ray/llm", "ray/rllib")
"""What a cluster runs without, and a seventh of the bytes that a node unpacks."""

RECIPE = 1


def folder() -> Path:
    """Where the image is kept: a new folder for each set of requirements and base."""
    said = repr((RECIPE, PLATFORMS, UNNEEDED, images.folder().name)).encode()
    digest = hashlib.sha256(said + REQUIREMENTS.read_bytes())
    return binaries.cache() / f"ray-image-{digest.hexdigest()[:12]}"


def archive() -> Path:
    """The image, for ``Node.add_image``."""
    return folder() / "ray.tar"


def missing() -> str | None:
    """Why there is no image, with what to do; None when it is there."""
    return None if archive().is_file() else f"no image in {folder()}: run `make controlplane`"


def version() -> str:
    """Version of Ray in the image."""
    found = re.search(r"^ray==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"expected ray in {REQUIREMENTS}, found none: run `make lock`")
    return found[1]


def build() -> None:
    """Build the image into its folder, in one step at the end.

    Raises:
        OSError: pip failed; the message ends with what it said last.
    """
    for left in binaries.cache().glob(".ray-image-*"):
        shutil.rmtree(left)
    new = Path(tempfile.mkdtemp(prefix=".ray-image-", dir=binaries.cache()))
    packages = new / "root" / "usr" / "local" / "lib" / f"python{PYTHON_VERSION}" / "dist-packages"
    packages.mkdir(parents=True)
    _install(packages)
    for name in UNNEEDED:
        shutil.rmtree(packages / name, ignore_errors=True)
    scripts = new / "root" / "usr" / "local" / "bin"
    (packages / "bin").rename(scripts)
    for script in scripts.iterdir():
        if script.is_file():
            _run_by_debian(script)
    packed = images.layer(new / "root", new / "layer.tar")
    images.pack(RAY, new / "ray.tar", [images.python_layer(), packed])
    shutil.rmtree(new / "root")
    (new / "layer.tar").unlink()
    new.chmod(0o755)
    new.replace(folder())


def _install(packages: Path) -> None:
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    words += ["--root-user-action=ignore", "--no-warn-conflicts"]
    words += ["--only-binary=:all:", "--python-version", PYTHON_VERSION]
    words += [f"--platform={name}" for name in PLATFORMS]
    images.run([*words, "--target", str(packages), "-r", str(REQUIREMENTS)])


def _run_by_debian(script: Path) -> None:
    """A script's first line names the Python that ran pip."""
    first, _, rest = script.read_bytes().partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        script.write_bytes(b"#!/usr/bin/python3\n" + rest)
