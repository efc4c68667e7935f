"""Processes by identity: an id alone never names one, and not knowing is not the same as dead."""

from __future__ import annotations

import os
import resource

import pytest

from mlsched.adapters.local.processes import is_alive, read_identity


def test_a_process_is_known_by_id_start_and_boot_together():
    me = read_identity(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(type(me)(me.pid, me.start_time + 1, me.boot_id))
    assert not is_alive(type(me)(me.pid, me.start_time, "another boot"))


def test_without_a_handle_to_spare_nobody_is_called_dead():
    me = read_identity(os.getpid())
    assert me is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            is_alive(me)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
