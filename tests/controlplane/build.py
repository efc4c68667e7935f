"""Builds the programs of a control plane and of nodes, once a machine: ``make controlplane``.

    python tests/controlplane/build.py                     all parts
    python tests/controlplane/build.py etcd kube           some
    KUBERNETES=1.36.3 python tests/controlplane/build.py   the API server of an older version

Each part goes into a folder of its own in the cache, named by its version and sources; a part
that is there is not built again. A part is built beside its place and moved at its end, so an
interrupted build loses no finished part, and Go's own cache keeps the rest. Needs Go 1.26 or
newer and a way to Go modules; standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from tests.controlplane import binaries, images, ray_images
from tests.controlplane.binaries import MODULES, PARTS, Part

IMAGES = ("images", "ray-image")
GO_LEAST = (1, 26)
ERROR_LINES = 30
ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}


class BuildError(RuntimeError):
    """A part was not built; the message ends with what the compiler said last."""


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold a part's lock: a second build of it waits, then finds it done."""
    binaries.cache().mkdir(parents=True, exist_ok=True)
    with (binaries.cache() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: another build of it is under way; waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_go() -> None:
    """Refuse a Go that cannot build this version of Kubernetes."""
    go = shutil.which("go")
    if go is None:
        raise BuildError("expected go in PATH, found none: install Go 1.26 or newer (go.dev/dl)")
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True)
    found = tuple(int(n) for n in re.findall(r"\d+", said.stdout)[:2])
    if found < GO_LEAST:
        raise BuildError(f"expected Go 1.26 or newer, found {said.stdout.strip()}: install it")


def run_go(words: Sequence[str | Path], folder: Path) -> str:
    """Run the go command; what it said.

    Raises:
        BuildError: It failed.
    """
    argv = ["go", *map(str, words)]
    found = subprocess.run(
        argv,
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if found.returncode:
        said = "\n".join(found.stdout.splitlines()[-ERROR_LINES:])
        raise BuildError(f"go {words[0]} failed in {folder}:\n{said}")
    return found.stdout


def write_older_module(part: Part, folder: Path) -> None:
    """A wrapper module of an older Kubernetes: the same replaced modules in that version."""
    minor_old, minor_new = (version.split(".", 1)[1] for version in (part.pinned, part.built))
    lines = ["module example.invalid/kube", "go 1.26.0", f"require {part.module} v{part.built}"]
    lines += [f"tool {path}" for path in part.programs.values()]
    for line in (MODULES / part.name / "go.mod").read_text(encoding="utf-8").splitlines():
        if line.startswith("replace "):
            lines.append(line.replace(f"v0.{minor_old}", f"v0.{minor_new}"))
    (folder / "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run_go(["mod", "tidy"], folder)


def copy_data(part: Part, module: Path, out: Path) -> None:
    """Copy the folder of the Go module that a part's users read besides its programs."""
    said = run_go(["list", "-m", "-f", "{{.Dir}}", part.module], module)
    source = Path(said.strip()) / part.data
    shutil.copytree(source, out / source.name, copy_function=shutil.copyfile)
    (out / source.name).chmod(0o755)


def build(part: Part) -> None:
    """Build one part where it is not there yet."""
    with only_one(part.name):
        if all((part.folder / name).is_file() for name in part.programs):
            return
        for left in binaries.cache().glob(f".{part.name}-*"):
            shutil.rmtree(left)
        print(f"{part.name} {part.built}: about {part.minutes:g} min ...", flush=True)
        started = time.monotonic()
        new = Path(tempfile.mkdtemp(prefix=f".{part.name}-", dir=binaries.cache()))
        module = MODULES / part.name
        if part.version:
            module = new / "module"
            module.mkdir()
            write_older_module(part, module)
        for name, path in part.programs.items():
            run_go(["build", *part.flags, "-o", new / name, path], module)
        if part.data:
            copy_data(part, module, new)
        shutil.rmtree(new / "module", ignore_errors=True)
        new.chmod(0o755)
        new.replace(part.folder)
        took = time.monotonic() - started
        print(f"{part.name} {part.built}: {took:.0f} s, in {part.folder}", flush=True)


def build_images(names: Sequence[str]) -> None:
    """Pack the images of the pods; only root can, and nodes need root too."""
    if (reason := images.obstacle()) is not None:
        print(f"images: left out, real nodes cannot run here: {reason}", flush=True)
        return
    with only_one("images"):
        if not images.are_built():
            print("images of pods: about 1.5 min ...", flush=True)
            started = time.monotonic()
            images.build()
            print(f"images: {time.monotonic() - started:.0f} s, in {images.folder()}", flush=True)
        if "ray-image" in names and ray_images.missing() is not None:
            print("image of Ray's pods: about 1.5 min ...", flush=True)
            started = time.monotonic()
            ray_images.build()
            took = time.monotonic() - started
            print(f"ray-image: {took:.0f} s, in {ray_images.folder()}", flush=True)


def chosen_parts(names: Sequence[str], kubernetes: str) -> list[Part]:
    """Parts to build: those named, all without a name, or one older API server."""
    if kubernetes and kubernetes.removeprefix("v") != binaries.kubernetes_version():
        return [binaries.older_api_server(kubernetes)]
    return [part for part in PARTS if not names or part.name in names]


def chosen_images(names: Sequence[str], kubernetes: str) -> list[str]:
    """Images to build: those named, all without a name, none with one older API server."""
    if names or kubernetes:
        return [name for name in IMAGES if name in names]
    return list(IMAGES)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [part.name for part in PARTS] + list(IMAGES)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(known))
    names = parser.parse_args().parts
    if unknown := set(names) - set(known):
        parser.error(f"expected some of {', '.join(known)}; found {', '.join(sorted(unknown))}")
    parts = chosen_parts(names, os.environ.get("KUBERNETES", ""))
    absent = [part for part in parts if not part.folder.is_dir()]
    started = time.monotonic()
    try:
        if absent:
            check_go()
            total = sum(part.minutes for part in absent)
            what = ", ".join(f"{part.name} {part.built}" for part in absent)
            print(f"To build once, about {total:.0f} min on two cores: {what}", flush=True)
        for part in absent:
            build(part)
        if chosen := chosen_images(names, os.environ.get("KUBERNETES", "")):
            build_images(chosen)
    except (BuildError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{error}\nWhat is finished stays: run it again to go on.")
    print(f"All there, {time.monotonic() - started:.0f} s: {binaries.cache()}")


if __name__ == "__main__":
    main()
