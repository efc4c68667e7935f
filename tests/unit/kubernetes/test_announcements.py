"""Settings of a controller travel through the annotation of its lease."""

from __future__ import annotations

import json

import pytest

from mlsched.adapters.kubernetes.announcements import (
    SETTINGS_ANNOTATION,
    Announcement,
    read_announcement,
    write_announcement,
)
from mlsched.adapters.kubernetes.nodes import LayerRule
from mlsched.server.clusters import ClusterSettings


def test_what_was_told_is_read() -> None:
    settings = ClusterSettings(
        image="i:1",
        layers=(LayerRule("pool", "cpu", "data"),),
        drivers=("gpu.example.com",),
        device_classes=(("gpu.example.com", "gpus"),),
    )
    found = read_announcement(write_announcement(settings.announcement))
    assert found is not None
    assert found == settings.announcement
    assert (found.image, found.layer_rules, found.dra_drivers) == (
        settings.image, settings.layers, settings.drivers
    )  # fmt: skip
    assert found.device_classes == {"gpu.example.com": "gpus"}


def test_it_reads_well_in_kubectl() -> None:
    (text,) = write_announcement(Announcement(layer_rules=(LayerRule("a", "b", "c"),))).values()
    assert json.loads(text)["layerRules"] == [{"label": "a", "value": "b", "layer": "c"}]


def test_what_a_later_release_adds_is_no_obstacle() -> None:
    assert read_announcement({SETTINGS_ANNOTATION: '{"image": "i", "new": [1]}'}) == Announcement(
        image="i"
    )


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"image": 7}', '{"layerRules": ["a"]}'])
def test_what_is_not_understood_is_not_known(text: str) -> None:
    assert read_announcement({SETTINGS_ANNOTATION: text}) is None
    assert read_announcement({}) is None
