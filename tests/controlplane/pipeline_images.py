"""The image of pipelines in pods: that of Ray's, with mlsched as it is in the working tree on top.

    node.add_image(ray_images.archive())
    node.add_image(pipeline_images.pack(tmp_path))      # a few MB: the rest is there already

Standard library only.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.controlplane import images, ray_images

PIPELINES = "mlsched.io/pipelines:1"
ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "mlsched", ROOT / "pipelines" / "mlsched_pipelines")
SCRIPT = """#!/usr/bin/python3
import sys
from mlsched.cli.main import main
sys.exit(main())
"""


def pack(folder: Path) -> Path:
    """Write the image's archive into a folder, for nodes that have Ray's image."""
    root = folder / "root"
    local = root / "usr" / "local"
    packages = local / "lib" / f"python{ray_images.PYTHON_VERSION}" / "dist-packages"
    for package in PACKAGES:
        no_cache = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, packages / package.name, ignore=no_cache)
    script = local / "bin" / "mlsched"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    script.chmod(0o755)
    own = images.layer(root, folder / "pipelines-layer.tar")
    below = images.read_layers(ray_images.archive())
    return images.pack(PIPELINES, folder / "pipelines.tar", [*below, own])
