"""The image of deploy/docker, built without a daemon, works in the pods of the chart."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import charts, images
from tests.controlplane.charts import find, render
from tests.controlplane.controllers import Jobs
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane

pytestmark = [
    pytest.mark.needs_nodes,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
]

ROOT = Path(__file__).parents[3]
IMAGE = "mlsched.io/mlsched"
LEVEL = "pod-security.kubernetes.io/enforce"
GPU_NODE = "/apis/mlsched.io/v1alpha1/gpunodes/node-a"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
Until = Callable[..., Any]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built image as an archive: a minute, and 1 GB while it is built."""
    folder = tmp_path_factory.mktemp("image")

    def buildah(*words: str) -> None:
        storage = ["--storage-driver", "vfs", "--root", f"{folder}/s", "--runroot", f"{folder}/r"]
        env = {**os.environ, "TMPDIR": str(folder)}
        command = ["buildah", *storage, *words]
        found = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]

    buildah("pull", f"oci-archive:{images.python_archive()}")
    mount = ["-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"] if Path(CERTIFICATES).exists() else []
    buildah(
        "build", "--isolation", "chroot", "--pull-never", *mount,
        "--build-arg", f"BASE={images.PYTHON}",
        "-f", "deploy/docker/Dockerfile", "-t", f"{IMAGE}:test", ".",
    )  # fmt: skip
    made = folder / "mlsched.tar"
    buildah("push", f"{IMAGE}:test", f"oci-archive:{made}:{IMAGE}:test")
    shutil.rmtree(folder / "s")
    return made


def test_the_chart_runs_in_the_image_and_schedules(
    archive: Path, chart: Path, until: Until
) -> None:
    with ControlPlane(controller_manager=True) as plane:
        nodes = Nodes(plane)
        labels = {"mlsched.io/layer": "data", "nvidia.com/gpu.present": "true"}
        nodes.add("node-a", labels, archives=[archive])
        plane.create_namespace("mlsched", {LEVEL: "restricted"})
        plane.create_namespace("gpu", {LEVEL: "privileged"})
        values = {
            "image__repository": IMAGE, "image__tag": "test", "agent__namespace": "gpu"
        }  # fmt: skip
        charts.install(plane, chart, "mlsched", **values)
        objects = render(chart, **values)
        _start_pod(plane, find(objects, "Deployment", "m-controller"))
        jobs = Jobs(plane, plane.create_namespace("team"))
        jobs.submit("sum", command=["python3", "-c", "print(2+3)"], image=images.PYTHON,
                    cpusPerTask="100m")  # fmt: skip
        until(lambda: jobs.state("sum") == "SUCCEEDED", 120)
        assert jobs.log("sum-1-0") == "5\n"
        _start_pod(plane, find(objects, "DaemonSet", "m-agent"))
        until(lambda: plane.exists(GPU_NODE), 60)
        status = until(lambda: plane.api("GET", GPU_NODE).get("status"), 60)
        assert status["summary"]["gpus"] == 0
        assert "who holds" not in status["summary"]["note"]


def _start_pod(plane: ControlPlane, workload: dict[str, Any]) -> None:
    """The pod of a Deployment or DaemonSet, which no controller of the tests' planes makes.

    There is no kube-proxy either, so that the API server is reached by its name.
    """
    metadata, template = workload["metadata"], workload["spec"]["template"]
    spec = template["spec"] | {"nodeName": "node-a"}
    container = spec["containers"][0]
    container["env"] += [
        {"name": "KUBERNETES_SERVICE_HOST", "value": "kubernetes.default.svc"},
        {"name": "KUBERNETES_SERVICE_PORT", "value": "443"},
    ]
    body = {"metadata": {"name": metadata["name"], **template["metadata"]}, "spec": spec}
    plane.api("POST", f"/api/v1/namespaces/{metadata['namespace']}/pods", body)
