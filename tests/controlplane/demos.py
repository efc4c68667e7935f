"""The demo on a cluster of this machine: a control plane, two real nodes, the controller, a job.

    python -m tests.controlplane.demos         what ``mlsched demo --kubernetes`` runs

The job builds the demo's dataset by its pipeline and trains on it through the feed, as a pod. Its
image holds this checkout and the packages that the demo needs, from this environment.
"""

from __future__ import annotations

import os
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.controlplane import controllers, images
from tests.controlplane.nodes import Nodes, missing
from tests.controlplane.planes import ControlPlane

IMAGE = "mlsched.io/demo:1"
ROOT = Path(__file__).parents[2]
SITE = "usr/local/lib/python3.11/dist-packages"
PACKAGES = ("numpy", "numpy.libs", "pyarrow", "msgspec", "cloudpickle", "typing_extensions.py")
DIGITS = "sklearn/datasets/data/digits.csv.gz"
"""The digits that scikit-learn ships, without its code."""

SCRIPT = """#!/bin/sh
set -e
cd "$MLSCHED_ATTEMPT_DIR"
python3 -m mlsched.demo.dataset data
exec python3 -m mlsched.demo.train --dataset data/digits --out model
"""


def pack_image(folder: Path) -> Path:
    """Pack the demo's image into a folder; the archive. 10 s, 0.6 GB.

    Raises:
        FileNotFoundError: a package that it needs is not installed here, or the base is not built.
    """
    staged = folder / "staged"
    installed = Path(next(p for p in site.getsitepackages() if (Path(p) / "numpy").is_dir()))
    for name in PACKAGES:
        source, target = installed / name, staged / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("tests", "include"))
        else:
            shutil.copy(source, target)
    for source in (ROOT / "mlsched", ROOT / "pipelines" / "mlsched_pipelines"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, staged / source.name, ignore=ignored)
    digits = staged / DIGITS
    digits.parent.mkdir(parents=True)
    shutil.copy(installed / DIGITS, digits)
    for package in (digits.parent, digits.parents[1], digits.parents[2]):
        (package / "__init__.py").touch()
    packed = images.layer(staged, folder / "demo-layer.tar", SITE)
    shutil.rmtree(staged)
    return images.pack(IMAGE, folder / "demo.tar", [images.python_layer(), packed])


def main() -> int:
    """Start everything, run the demo's job by the commands that users type, and end everything."""
    _say("== 1. The control plane and the nodes (built once a machine, 13 minutes; then seconds)")
    subprocess.run([sys.executable, str(ROOT / "tests" / "controlplane" / "build.py")], check=True)
    if (reason := missing()) is not None:
        _say(f"error: {reason}")
        return 1
    made = tempfile.TemporaryDirectory(prefix="mlsched-demo-")
    with made as folder, ControlPlane(controller_manager=True) as plane:
        return _tour(plane, Path(folder))


def _tour(plane: ControlPlane, folder: Path) -> int:
    _say(f"until the end of the demo: export KUBECONFIG={plane.admin_kubeconfig}")
    archive = pack_image(folder)
    nodes = Nodes(plane)
    for name in ("node-a", "node-b"):
        nodes.add(name, {"mlsched.io/layer": "data"}, archives=[archive])
    controllers.install(plane)
    controllers.start(plane)
    config = plane.kubeconfig("admin", context="demo")
    script = folder / "demo.sh"
    script.write_text(SCRIPT)
    os.environ["KUBECONFIG"] = str(config)
    _say("\n== 2. The demo's job as a pod, by the same command with -c demo")
    code = _mlsched("run", "--image", IMAGE, "--name", "demo", "--cpus", "1", str(script))
    _say("\n== 3. What became of it")
    _mlsched("ls", "--all")
    _mlsched("why", "demo")
    _mlsched("show", "demo")
    return code


def _mlsched(*words: str) -> int:
    _say(f"$ mlsched -c demo {shlex.join(words)}")
    command = [sys.executable, "-m", "mlsched", "-c", "demo", *words]
    return subprocess.run(command, check=False).returncode


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
