"""Keywords of ml.submit mean what the flags of the command line mean."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlsched.api.jobs import Job
from mlsched.api.options import Option, to_flags
from mlsched.errors import SpecError


@pytest.mark.parametrize(
    ("keywords", "flags"),
    [
        ({"gpus": 1}, [("--gpus", "1")]),
        ({"gpus": "H100:2"}, [("--gpus", "H100:2")]),
        ({"time": "2h"}, [("--time", "2h")]),
        ({"time": 90}, [("--time", "90s")]),
        ({"time": timedelta(minutes=5)}, [("--time", "300s")]),
        ({"time": timedelta(days=14)}, [("--time", "1209600s")]),
        ({"time": 1_234_567}, [("--time", "1234567s")]),
        ({"grace": 1.5}, [("--grace", "1.5s")]),
        ({"env": {"A": "1", "B": 2}}, [("--env", "A=1"), ("--env", "B=2")]),
        ({"after": "a"}, [("--after", "a")]),
        ({"after": Job("a-1", "id")}, [("--after", "a-1")]),
        ({"after": [Job("a-1", "id"), "b:any"]}, [("--after", "a-1"), ("--after", "b:any")]),
        ({"array": 4}, [("--array", "0-3")]),
        ({"array": range(0, 6, 2)}, [("--array", "0,2,4")]),
        ({"array": "0-9%2"}, [("--array", "0-9%2")]),
        ({"gpus": None}, []),
    ],
)
def test_values_become_flags(keywords, flags):
    options, rest = Option.split(keywords)
    assert to_flags(options) == flags
    assert rest == {}


@pytest.mark.parametrize(
    "keywords",
    [{"gpus": True}, {"gpus": [1]}, {"env": "A=1"}, {"array": 0}, {"after": 3}, {"time": True}],
)
def test_values_of_another_kind_are_refused(keywords):
    with pytest.raises(SpecError):
        to_flags(Option.split(keywords)[0])


def test_other_keywords_are_the_functions_own():
    options, rest = Option.split({"lr": 0.1, "gpus": 2})
    assert set(options) == {Option.GPUS}
    assert rest == {"lr": 0.1}
