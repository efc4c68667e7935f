"""What the control plane of the tests is built from, and where its programs are.

``find("etcd")`` looks into the folder KUBEBUILDER_ASSETS first, as users of envtest expect, then
into the cache that ``make controlplane`` fills. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

MODULES = Path(__file__).parent
NEWEST = ""
"""As version of Kubernetes: the one that kube/go.mod names."""


@dataclass(frozen=True)
class Part:
    """Programs of one wrapper module.

    Attributes:
        name: Folder of the wrapper module.
        module: Go module whose version is the part's.
        programs: Import path of each program by its name.
        minutes: About how long it takes to build on two cores from nothing.
        tags: Build tags.
        version: Another version than the wrapper module names.
        data: Folder of the module that is kept beside the programs, under its last name.
    """

    name: str
    module: str
    programs: dict[str, str]
    minutes: float
    tags: str = ""
    version: str = NEWEST
    data: str = ""

    @cached_property
    def pinned(self) -> str:
        """Version that go.mod of the wrapper module names, without the v."""
        text = (MODULES / self.name / "go.mod").read_text(encoding="utf-8")
        found = re.search(rf"^\s*{re.escape(self.module)} v(\S+)", text, re.MULTILINE)
        if found is None:
            raise ValueError(f"expected {self.module} in {self.name}/go.mod, found none")
        return found[1]

    @property
    def built(self) -> str:
        """Version that is built."""
        return self.version or self.pinned

    @property
    def flags(self) -> list[str]:
        """Arguments of ``go build``."""
        ldflags = "-s -w"
        if self.name == "kube":
            major, minor, *_ = self.built.split(".")
            base = "k8s.io/component-base/version"
            said = {
                f"{base}.gitVersion": f"v{self.built}",
                f"{base}.gitMajor": major,
                f"{base}.gitMinor": minor,
                f"{base}.gitTreeState": "clean",
                "k8s.io/client-go/pkg/version.gitVersion": f"v{self.built}",
            }
            ldflags += "".join(f" -X {name}={value}" for name, value in said.items())
        tags = ["-tags", self.tags] if self.tags else []
        return ["-trimpath", *tags, "-ldflags", ldflags]

    @property
    def folder(self) -> Path:
        """Where its programs are kept: a new folder for each version and set of sources."""
        digest = hashlib.sha256()
        for name in ("go.mod", "go.sum"):
            digest.update((MODULES / self.name / name).read_bytes())
        digest.update(repr((self.built, self.flags, sorted(self.programs.items()))).encode())
        digest.update(self.data.encode())
        return cache() / f"{self.name}-{self.built}-{digest.hexdigest()[:12]}"


def cache() -> Path:
    """Folder of everything that is built once a machine."""
    if chosen := os.environ.get("MLSCHED_CONTROLPLANE_CACHE"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mlsched" / "controlplane"


_KUBE = "k8s.io/kubernetes/cmd"
_CONTAINERD = "github.com/containerd/containerd/v2"

PARTS = (
    Part("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}, 0.6),
    Part(
        "kube",
        "k8s.io/kubernetes",
        {
            name: f"{_KUBE}/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
        },
        6.5,
    ),
    Part(
        "containerd",
        _CONTAINERD,
        {n: f"{_CONTAINERD}/cmd/{n}" for n in ("containerd", "containerd-shim-runc-v2", "ctr")},
        1,
        tags="no_btrfs no_devmapper no_zfs",
    ),
    Part("kwok", "sigs.k8s.io/kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, 1.5),
    Part("helm", "helm.sh/helm/v4", {"helm": "helm.sh/helm/v4/cmd/helm"}, 2),
    Part(
        "kuberay",
        "github.com/ray-project/kuberay/ray-operator",
        {"kuberay": "github.com/ray-project/kuberay/ray-operator"},
        1.5,
        data="config/crd/bases",
    ),
)
"""In the order in which they are built: what most tests need comes first."""


def older_api_server(version: str) -> Part:
    """The API server of another version of Kubernetes, such as 1.36.3."""
    program = {"kube-apiserver": f"{_KUBE}/kube-apiserver"}
    return Part("kube", "k8s.io/kubernetes", program, 8, version=version.removeprefix("v"))


def _part_of(program: str, kubernetes: str) -> Part:
    part = next(part for part in PARTS if program in part.programs)
    if kubernetes and program == "kube-apiserver" and kubernetes != part.pinned:
        return older_api_server(kubernetes)
    return part


def find(program: str, kubernetes: str = NEWEST) -> Path | None:
    """The path of a program; None when there is none yet, and ``missing`` says why."""
    part = _part_of(program, kubernetes)
    folders = [part.folder]
    if (assets := os.environ.get("KUBEBUILDER_ASSETS")) and not part.version:
        folders.insert(0, Path(assets))
    paths = (folder / program for folder in folders)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def need(program: str, kubernetes: str = NEWEST) -> Path:
    """The path of a program.

    Raises:
        FileNotFoundError: It is not built.
    """
    if (found := find(program, kubernetes)) is not None:
        return found
    raise FileNotFoundError(missing(program, kubernetes=kubernetes))


def missing(*programs: str, kubernetes: str = NEWEST) -> str | None:
    """Why programs cannot be used, with what to do; None when all are there."""
    absent = [program for program in programs if find(program, kubernetes) is None]
    if not absent:
        return None
    advice = f"KUBERNETES={kubernetes} make controlplane" if kubernetes else "make controlplane"
    return f"{', '.join(absent)} not found in KUBEBUILDER_ASSETS or {cache()}: run `{advice}`"


def kubernetes_version() -> str:
    """Version of Kubernetes that kube/go.mod names."""
    return next(part.pinned for part in PARTS if part.name == "kube")
