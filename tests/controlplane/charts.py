"""The Helm chart in tests: completed as ``make chart`` does, rendered, and installed on a plane.

chart = complete(tmp_path)
deployment = find(render(chart, controller__replicas=2), "Deployment", "m-controller")
install(plane, chart, "mlsched", agent__enabled=False)       # release m
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from mlsched.specs.crds import build_crds
from mlsched.specs.documents import to_yaml
from tests.controlplane import binaries
from tests.controlplane.planes import ControlPlane

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "mlsched"
RELEASE = "m"

Rules = dict[tuple[str, str], set[str]]
"""Verbs by API group and resource."""


def copy(folder: Path) -> Path:
    """The chart as it lies in the repository: without its CRDs."""
    made = folder / "mlsched"
    shutil.copytree(CHART, made, ignore=shutil.ignore_patterns("files"))
    return made


def complete(folder: Path) -> Path:
    """The chart as ``make chart`` completes it."""
    made = copy(folder)
    (made / "files").mkdir()
    crds = "---\n".join(to_yaml(one) for one in build_crds())
    (made / "files" / "crds.yaml").write_text(crds)
    return made


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm; it may fail."""
    argv = [binaries.need("helm"), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def render(chart: Path, namespace: str = "mlsched", **values: Any) -> list[dict[str, Any]]:
    """What helm makes of the chart, with values by their paths: ``controller__replicas=2``."""
    found = helm("template", RELEASE, chart, "--namespace", namespace, *_words(values))
    assert found.returncode == 0, found.stderr
    return [one for one in yaml.safe_load_all(found.stdout) if one]


def install(plane: ControlPlane, chart: Path, namespace: str, **values: Any) -> None:
    """Install or upgrade the release on a plane; nothing waits for its pods."""
    on_plane(plane, "upgrade", "--install", RELEASE, chart, "-n", namespace, *_words(values))


def on_plane(plane: ControlPlane, *words: str | Path) -> None:
    """Run helm as admin of a plane.

    Raises:
        AssertionError: it failed.
    """
    found = helm(*words, "--kubeconfig", plane.admin_kubeconfig)
    assert found.returncode == 0, found.stderr


def _words(values: dict[str, Any]) -> list[str]:
    return [f"--set-json={path.replace('__', '.')}={json.dumps(v)}" for path, v in values.items()]


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of this kind and name."""
    (one,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return one


def rules(role: dict[str, Any]) -> Rules:
    """What a role allows."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
