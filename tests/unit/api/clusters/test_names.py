"""What a text stands for, and names for jobs that were given none."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.api.clusters.names import (
    Reference,
    base_of,
    invent_name,
    local_dependency,
    name_for_key,
    parse_reference,
)
from mlsched.errors import SpecError
from mlsched.model.specs import Dependency
from mlsched.specs.limits import check_name

BASES = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train", Reference("team", "train")),
        ("train[3]", Reference("team", "train", 3)),
        ("train.3", Reference("team", "train", 3)),
        ("other/train", Reference("other", "train")),
        ("other/train.12", Reference("other", "train", 12)),
        ("other/train[12]", Reference("other", "train", 12)),
    ],
)
def test_texts_stand_for_jobs(text, expected):
    assert parse_reference(text, "team") == expected


@pytest.mark.parametrize(
    "text", ["", "a/b/c", "Train", "train[x]", "train.", "../x", "a b", "x[1]y"]
)
def test_other_texts_stand_for_nothing(text):
    assert parse_reference(text, "team") is None


@given(st.integers(0, 10**8))
def test_the_id_of_a_job_stands_for_it(index):
    for one in (Reference("team", "train"), Reference("team", "train", index)):
        assert parse_reference(one.id, "elsewhere") == one


@given(BASES, st.integers())
def test_invented_names_are_legal_and_lead_back_to_their_base(base, seed):
    name = invent_name(base, random.Random(seed))
    check_name(name)
    assert base_of(name, base) == name.rpartition("-")[0]


def test_a_name_that_was_given_is_its_own_base():
    assert base_of("nightly", "train") == "nightly"
    assert base_of("train-final", "train") == "train-final"


@given(BASES, st.text(max_size=50), st.text(max_size=50))
def test_a_key_always_gives_the_same_name_and_another_key_another(base, key, other):
    check_name(name_for_key(base, key))
    assert name_for_key(base, key) == name_for_key(base, key)
    assert (name_for_key(base, key) == name_for_key(base, other)) == (key == other)


def test_names_by_key_never_meet_names_by_chance():
    assert re.fullmatch(r"train-\w{10}", name_for_key("train", "k"))
    assert re.fullmatch(r"train-\w{5}", invent_name("train", random.Random(1)))


def test_dependencies_are_written_as_names_of_their_namespace():
    assert local_dependency(Dependency("team/a.3", "any"), "team") == Dependency("a[3]", "any")
    assert local_dependency(Dependency("team/a"), "team") == Dependency("a")


@pytest.mark.parametrize("job", ["other/a", "A"])
def test_dependencies_of_elsewhere_are_refused(job):
    with pytest.raises(SpecError, match="after"):
        local_dependency(Dependency(job), "team")
