"""This machine as a node."""

from __future__ import annotations

import os
import re

import pytest

from mlsched.adapters.local.machine import legal_name, observe_machine


def test_a_machine_gives_no_more_than_it_has():
    node = observe_machine()
    assert 100 <= node.milli_cpus <= 1000 * (os.cpu_count() or 1)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert (1 << 20) < node.memory_bytes <= pages * 1.01
    assert node.devices == ()
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", node.name)


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("gpu-01.example.com", "gpu-01"),
        ("GPU_01", "gpu-01"),
        ("-x-", "x"),
        ("", "local"),
        ("ä", "local"),
        ("a" * 100, "a" * 63),
    ],
)
def test_names_are_legal_labels(hostname, expected):
    assert legal_name(hostname) == expected
