"""How the service of one machine begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsched.config import Paths
from mlsched.server import __main__ as main


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "config.toml", tmp_path, tmp_path / "cache", tmp_path / "s.sock")


def test_the_link_leads_to_the_socket_and_replaces_the_one_before(paths: Paths) -> None:
    paths.socket_link.symlink_to("/nowhere")
    main._link_socket(paths)
    assert paths.socket_link.readlink() == paths.socket


def test_a_link_that_cannot_be_made_is_told_and_no_end(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk may be full: whoever has the same runtime directory needs no link."""
    paths.socket_link.mkdir()
    main._link_socket(paths)
    assert "cannot be found by other logins" in capsys.readouterr().err
