"""A machine with a fake driver: the real binding, in the real child processes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest

from mlsched.adapters.nvml import read_inventory
from mlsched.model.inventory import Inventory

BUILD = Path(__file__).parents[2] / "fake_nvml" / "build.py"


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The script that builds the library and writes statements."""
    spec = importlib.util.spec_from_file_location("fake_nvml_build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def library(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the library that has every function."""
    return fake.build(tmp_path_factory.mktemp("fake-nvml")).parent


class Driver:
    """A driver that answers from lines of text."""

    def __init__(self, fake: ModuleType, state: Path) -> None:
        self._fake = fake
        self.state = state
        self.previous: Inventory | None = None

    def say(self, *lines: str | Iterable[str]) -> None:
        """Replace everything that the driver says."""
        flat = [one for line in lines for one in ([line] if isinstance(line, str) else line)]
        self._fake.write_state(self.state, flat)

    def read(self, deadline_s: float = 20.0) -> Inventory:
        """Read the machine as the service does, knowing what it read before."""
        self.previous = read_inventory(deadline_s, self.previous)
        return self.previous


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes child processes find a driver library in a folder."""

    def use(folder: Path) -> None:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))

    return use


@pytest.fixture
def driver(
    fake: ModuleType,
    library: Path,
    install: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Driver:
    """The driver of this test, which says that there are eight H100s until it says otherwise."""
    made = Driver(fake, tmp_path / "state")
    made.say(fake.machine(8))
    install(library)
    monkeypatch.setenv("FAKE_NVML", str(made.state))
    return made
