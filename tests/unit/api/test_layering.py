"""Precedence: flag over environment over file over config.toml over what is built in."""

from __future__ import annotations

import pytest

from mlsched.api.layering import combine, environment_flags, variable_of
from mlsched.errors import ConfigError, SpecError
from mlsched.model.specs import JobSpec, Metadata
from mlsched.specs.documents import JobDocument
from mlsched.specs.flags import FLAGS

FLAG = [("--queue", "by-flag")]
ENVIRON = {"MLSCHED_QUEUE": "by-environment"}
FILE = JobDocument(JobSpec(command=("x",), queue="by-file"))
DEFAULTS = {"queue": "by-config"}
PLAIN = JobDocument(JobSpec(command=("x",)))


@pytest.mark.parametrize(
    ("document", "flags", "environ", "defaults", "expected"),
    [
        (FILE, FLAG, ENVIRON, DEFAULTS, "by-flag"),
        (FILE, [], ENVIRON, DEFAULTS, "by-environment"),
        (FILE, [], {}, DEFAULTS, "by-file"),
        (PLAIN, [], {}, DEFAULTS, "by-config"),
        (PLAIN, [], {}, {}, "default"),
    ],
)
def test_each_level_wins_over_those_below(document, flags, environ, defaults, expected):
    assert combine(document, flags, defaults, environ=environ).spec.queue == expected


def test_a_field_that_the_file_names_at_its_built_in_value_keeps_it():
    found = combine(PLAIN, [], DEFAULTS, named={"queue"}, environ={})
    assert found.spec.queue == "default"


def test_a_default_number_of_gpus_does_not_undo_another_way_of_asking():
    document = JobDocument(JobSpec(command=("x",), gpus_per_task=2))
    found = combine(document, [], {"gpus": "H100:1"}, environ={})
    assert (found.spec.gpus_per_task, found.spec.gpus_per_node) == (2, 0)


def test_a_name_in_the_file_wins_over_one_in_the_config():
    document = JobDocument(JobSpec(command=("x",)), Metadata(name="mine"))
    assert combine(document, [], {"name": "theirs"}, environ={}).metadata.name == "mine"


def test_a_wrong_default_is_blamed_on_the_config():
    with pytest.raises(ConfigError, match=r"config\.toml.*--retries"):
        combine(PLAIN, [], {"retries": "many"}, environ={})


def test_an_unknown_default_names_the_nearest_flag():
    with pytest.raises(ConfigError) as caught:
        combine(PLAIN, [], {"qeue": "x"}, environ={})
    assert "--queue" in caught.value.hint


def test_a_wrong_variable_is_blamed_on_the_environment():
    with pytest.raises(ConfigError, match="the environment: --retries"):
        combine(PLAIN, [], {}, environ={"MLSCHED_RETRIES": "x"})


def test_a_wrong_flag_is_the_users_own():
    with pytest.raises(SpecError):
        combine(PLAIN, [("--retries", "x")], {}, environ={})


def test_every_flag_has_a_variable_of_its_own():
    names = [variable_of(flag) for flag in FLAGS]
    assert len(set(names)) == len(names)
    assert "MLSCHED_TASKS_PER_NODE" in names


def test_an_empty_variable_counts_as_not_set():
    assert environment_flags({"MLSCHED_QUEUE": ""}) == []


def test_inside_a_job_its_own_name_is_not_the_name_of_the_next_job():
    environ = {"MLSCHED_JOB_ID": "1", "MLSCHED_NAME": "outer", "MLSCHED_QUEUE": "q"}
    assert environment_flags(environ) == [("--queue", "q")]
    assert environment_flags({"MLSCHED_NAME": "mine"}) == [("--name", "mine")]


def test_a_wrong_command_is_nobody_elses_fault():
    document = JobDocument(JobSpec(command=("x\udcff",)))
    with pytest.raises(SpecError, match="UTF-8"):
        combine(document, [], DEFAULTS, environ=ENVIRON)
