"""What a function returned or raised comes back as it was, or as an honest substitute."""

from __future__ import annotations

import math
import traceback

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.api.errors import EnvironmentMismatch, RemoteError
from mlsched.api.results import (
    is_exact_json,
    load_pickle,
    read_error,
    read_result,
    write_error,
    write_result,
)
from mlsched.errors import NotFoundError, PermanentError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def _same(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return one == two or (math.isnan(one) and math.isnan(two))
    if type(one) is not type(two):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(_same(one[key], two[key]) for key in one)
    return one == two


@given(PLAIN)
def test_any_plain_value_comes_back_as_it_was(tmp_path_factory, value):
    directory = tmp_path_factory.mktemp("attempt")
    write_result(directory, 0, value)
    assert _same(read_result(directory), value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([1, "a", None], "json"),
        ((1, 2), "pickle"),
        ({1: 2}, "pickle"),
        (float("nan"), "pickle"),
        (np.arange(3), "arrow"),
        (np.float64(1.5), "pickle"),
        (pa.table({"a": [1]}), "arrow"),
    ],
)
def test_values_are_stored_in_the_most_open_form_that_loses_nothing(tmp_path, value, kind):
    assert write_result(tmp_path, 0, value).suffix == f".{kind}"


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0, 3)])
def test_arrays_keep_type_and_shape(tmp_path, dtype, shape):
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    write_result(tmp_path, 0, array)
    found = read_result(tmp_path)
    assert found.dtype == array.dtype
    assert found.shape == shape
    assert np.array_equal(found, array)
    assert found.flags.writeable


def test_arrays_that_arrow_does_not_hold_are_pickled(tmp_path):
    for array in (np.array(["a"]), np.array([1 + 2j]), np.ma.masked_array([1], [True])):
        write_result(tmp_path, 0, array)
        found = read_result(tmp_path)
        assert type(found) is type(array)
        assert repr(found) == repr(array)


def test_an_array_in_fortran_order_and_a_view_keep_their_values(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))[:, ::2]
    write_result(tmp_path, 0, array)
    assert np.array_equal(read_result(tmp_path), array)


def test_tables_keep_schema_and_metadata(tmp_path):
    table = pa.table({"a": pa.array([1, None], pa.int16())}).replace_schema_metadata({"k": "v"})
    write_result(tmp_path, 0, table)
    found = read_result(tmp_path)
    assert found.equals(table, check_metadata=True)


@pytest.mark.parametrize("rows", [0, 3])
def test_record_batches_stay_record_batches(tmp_path, rows):
    batch = pa.record_batch({"a": pa.array(range(rows), pa.int64())})
    write_result(tmp_path, 0, batch)
    found = read_result(tmp_path)
    assert isinstance(found, pa.RecordBatch)
    assert found.equals(batch)


def test_frames_come_back_equal(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": [1.5, None], "y": ["a", "b"]}, index=[10, 20])
    assert write_result(tmp_path, 0, frame).suffix == ".arrow"
    pd.testing.assert_frame_equal(read_result(tmp_path), frame)


def test_frames_that_arrow_would_change_are_pickled(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": [{1}, {2}]})
    assert write_result(tmp_path, 0, frame).suffix == ".pickle"
    assert read_result(tmp_path)["x"][0] == {1}


def test_a_pickle_that_others_may_write_is_not_loaded(tmp_path):
    path = write_result(tmp_path, 0, (1, 2))
    path.chmod(0o622)
    with pytest.raises(PermanentError, match="not loaded"):
        read_result(tmp_path)


def test_a_link_to_a_pickle_is_not_loaded(tmp_path):
    path = write_result(tmp_path, 0, (1, 2))
    link = tmp_path / "link.pickle"
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        load_pickle(link)


def test_a_table_of_parts_with_dictionaries_of_their_own_comes_back(tmp_path):
    parts = [pa.table({"x": pa.array(words).dictionary_encode()}) for words in (["a"], ["b"])]
    write_result(tmp_path, 0, pa.concat_tables(parts))
    assert read_result(tmp_path).column("x").to_pylist() == ["a", "b"]


def test_a_number_of_any_size_comes_back(tmp_path):
    write_result(tmp_path, 0, [10**5000])
    assert read_result(tmp_path) == [10**5000]


def test_an_exception_that_cannot_tell_its_message_comes_back(tmp_path):
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    write_error(tmp_path, 0, Mute())
    assert read_error(tmp_path) is not None


def test_no_result_is_an_error(tmp_path):
    with pytest.raises(NotFoundError):
        read_result(tmp_path)


def test_deep_values_are_not_json():
    value: list = []
    for _ in range(5000):
        value = [value]
    assert not is_exact_json(value)


class Odd(Exception):
    """Needs two arguments, so that the usual way of pickling an exception fails."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.one = one


class Closed(Exception):
    """Cannot be pickled at all."""

    def __reduce__(self):
        raise TypeError("no")


def _raise(error):
    try:
        raise error
    except type(error) as caught:
        return caught


def test_an_exception_comes_back_with_its_frames(tmp_path):
    write_error(tmp_path, 0, _raise(ValueError("no such thing")))
    error = read_error(tmp_path)
    assert type(error) is ValueError
    assert str(error) == "no such thing"
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames == ["_raise"]


def test_causes_come_back_too(tmp_path):
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as caught:
        write_error(tmp_path, 0, caught)
    error = read_error(tmp_path)
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.__traceback__ is not None


@pytest.mark.parametrize("error", [Closed("shut"), Odd(1, 2)])
def test_an_exception_that_cannot_be_rebuilt_tells_its_class_and_text(tmp_path, error):
    write_error(tmp_path, 0, _raise(error))
    found = read_error(tmp_path)
    assert type(found) is type(error) or isinstance(found, RemoteError)
    if isinstance(found, RemoteError):
        assert type(error).__name__ in found.remote_type
        assert str(error) in found.remote_text
        assert "_raise" in "\n".join(found.__notes__)


def test_an_exception_whose_class_is_missing_here_is_a_remote_error(tmp_path):
    write_error(tmp_path, 0, _raise(ValueError("x")))
    content = cloudpickle.dumps(ValueError("x")).replace(b"builtins", b"missing1")
    assert b"missing1" in content
    path = tmp_path / "error-0.pickle"
    path.write_bytes(content)
    path.chmod(0o600)
    assert isinstance(read_error(tmp_path), RemoteError)


def test_the_rank_that_failed_first_is_the_cause(tmp_path):
    import os

    for rank, second in ((0, 20), (1, 10), (2, 30)):
        write_error(tmp_path, rank, _raise(ValueError(f"rank {rank}")))
        os.utime(tmp_path / f"error-{rank}.json", (second, second))
    assert str(read_error(tmp_path)) == "rank 1"


def test_another_python_is_told_as_that(tmp_path):
    write_error(tmp_path, 0, _raise(EnvironmentMismatch("Python 3.9, not 3.11")))
    assert isinstance(read_error(tmp_path), EnvironmentMismatch)


def test_without_an_exception_there_is_none(tmp_path):
    assert read_error(tmp_path) is None
