"""``make controlplane`` builds each part once, and loses nothing when it is interrupted.

The compiler is a stand-in: what is tested is what we do around it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import binaries

ROOT = Path(__file__).parents[3]
Until = Callable[..., Any]

GO = """#!/bin/sh
echo "$*" >> "$GO_CALLS"
case $1 in
env) echo "${GO_VERSION:-go1.26.8}";;
mod) cp go.mod "$GO_CALLS.mod";;
build)
  case "$*" in *"$GO_FAILS"*) echo "undefined: thing"; exit 1;; esac
  while [ "$1" != -o ]; do shift; done
  echo built > "$2"; chmod +x "$2"
  case "$*" in *"$GO_HANGS"*) sleep 600;; esac;;
esac
"""


class Builder:
    """The script with a compiler and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        go = folder / "bin" / "go"
        go.write_text(GO)
        go.chmod(0o755)
        self.calls = folder / "calls"
        self.cache = folder / "cache"
        self.env = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "MLSCHED_CONTROLPLANE_CACHE": str(self.cache),
            "GO_CALLS": str(self.calls),
            "GO_FAILS": "nothing",
            "GO_HANGS": "nothing",
        }

    def start(self, *parts: str, **env: str) -> subprocess.Popen[str]:
        """One run of the script."""
        return subprocess.Popen(
            [sys.executable, "tests/controlplane/build.py", *parts],
            cwd=ROOT,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *parts: str, **env: str) -> tuple[int, str]:
        """Exit code and all that it said."""
        with self.start(*parts, **env) as process:
            said = "".join(process.communicate(timeout=60))
        return process.returncode, said

    def built(self) -> list[str]:
        """Finished parts."""
        found = (path.name.rpartition("-")[0] for path in self.cache.glob("[a-z]*-*"))
        return sorted(name for name in found if name)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def test_parts_are_built_once(builder: Builder) -> None:
    code, said = builder.run("kube", "etcd")
    assert code == 0, said
    assert "about 7 min on two cores: etcd 3.7.3, kube 1.37.2" in said
    assert builder.built() == ["etcd-3.7.3", "kube-1.37.2"]
    (kube,) = builder.cache.glob("kube-*-*")
    assert {path.name for path in kube.iterdir()} == {
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
    }
    assert "gitVersion=v1.37.2" in builder.calls.read_text()
    builder.calls.unlink()
    code, said = builder.run("kube", "etcd")
    assert (code, "All there" in said) == (0, True)
    assert not builder.calls.exists()


def test_what_is_finished_stays_when_a_later_part_fails(builder: Builder) -> None:
    code, said = builder.run("etcd", "kwok", GO_FAILS="sigs.k8s.io/kwok")
    assert code == 1
    assert "undefined: thing" in said
    assert "run it again" in said
    assert builder.built() == ["etcd-3.7.3"]
    assert builder.run("etcd", "kwok")[0] == 0
    assert builder.built() == ["etcd-3.7.3", "kwok-0.8.0"]
    assert not list(builder.cache.glob(".kwok-*"))


def test_a_killed_build_counts_for_nothing_and_goes_on(builder: Builder, until: Until) -> None:
    with builder.start("etcd", "kwok", GO_HANGS="sigs.k8s.io/kwok") as process:
        until(lambda: list(builder.cache.glob(".kwok-*/kwok")))
        os.killpg(process.pid, signal.SIGKILL)
    assert builder.built() == ["etcd-3.7.3"]
    code, said = builder.run("etcd", "kwok")
    assert code == 0, said
    assert "etcd 3.7.3:" not in said
    assert builder.built() == ["etcd-3.7.3", "kwok-0.8.0"]


def test_an_older_version_replaces_the_same_modules(builder: Builder) -> None:
    code, said = builder.run(KUBERNETES="1.36.3")
    assert code == 0, said
    assert builder.built() == ["kube-1.36.3"]
    module = Path(f"{builder.calls}.mod").read_text()
    assert "require k8s.io/kubernetes v1.36.3\n" in module
    assert "replace k8s.io/client-go => k8s.io/client-go v0.36.3\n" in module
    assert "37.2" not in module
    (folder,) = builder.cache.glob("kube-*-*")
    assert [path.name for path in folder.iterdir()] == ["kube-apiserver"]


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (["etcd"], {"GO_VERSION": "go1.25.1"}, "expected Go 1.26 or newer, found go1.25.1"),
        (["etcd"], {"PATH": "/usr/bin/nowhere"}, "expected go in PATH, found none"),
        (["docker"], {}, "found docker"),
    ],
)
def test_what_cannot_be_built_is_told(
    builder: Builder, words: list[str], env: dict[str, str], said: str
) -> None:
    code, answer = builder.run(*words, **env)
    assert code != 0
    assert said in answer


def test_assets_of_envtest_come_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSCHED_CONTROLPLANE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert binaries.find("etcd") is None
    assert "make controlplane" in str(binaries.missing("etcd", "kubelet"))
    with pytest.raises(FileNotFoundError, match="etcd not found"):
        binaries.need("etcd")
    part = next(each for each in binaries.PARTS if each.name == "etcd")
    for folder in (part.folder, tmp_path / "assets"):
        folder.mkdir(parents=True)
        (folder / "etcd").write_text("")
        (folder / "etcd").chmod(0o755)
    assert binaries.find("etcd") == part.folder / "etcd"
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.find("etcd") == tmp_path / "assets" / "etcd"
    assert binaries.missing("etcd") is None
