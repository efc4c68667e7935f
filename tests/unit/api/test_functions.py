"""Functions as blobs: by content, checked before they are loaded."""

from __future__ import annotations

import sys
import types

import msgspec
import pytest

from mlsched.api.errors import EnvironmentMismatch
from mlsched.api.functions import (
    Call,
    command_of,
    is_function,
    load_call,
    read_blob,
    store_function,
)
from mlsched.errors import SpecError


def test_a_function_and_its_arguments_come_back(tmp_path):
    offset = 10
    blob = store_function(Call(lambda a, *, b: a * b + offset, (3,), {"b": 4}), tmp_path)
    call = load_call(*read_blob(blob))
    assert call.function(*call.args, **call.kwargs) == 22


def test_the_same_content_is_one_private_file(tmp_path):
    first = store_function(Call(max, (1, 2), {}), tmp_path)
    second = store_function(Call(max, (1, 2), {}), tmp_path)
    assert first == second
    assert list(tmp_path.iterdir()) == [first]
    assert first.stat().st_mode & 0o777 == 0o600


def test_a_damaged_blob_is_not_loaded(tmp_path):
    blob = store_function(Call(max, (1, 2), {}), tmp_path)
    blob.write_bytes(blob.read_bytes() + b"x")
    with pytest.raises(SpecError, match="damaged"):
        read_blob(blob)


def test_a_missing_blob_is_an_error(tmp_path):
    with pytest.raises(SpecError, match="cannot read"):
        read_blob(tmp_path / "sha256-0")


def test_a_function_of_another_python_is_refused_before_it_is_loaded(tmp_path):
    header, payload = read_blob(store_function(Call(max, (1, 2), {}), tmp_path))
    other = msgspec.structs.replace(header, python=(2, 7))
    with pytest.raises(EnvironmentMismatch, match=r"Python 2\.7"):
        load_call(other, payload)


def test_what_cannot_be_sent_says_why(tmp_path):
    with pytest.raises(SpecError, match="cannot be sent"):
        store_function(Call(max, (types.SimpleNamespace(x=(i for i in ())),), {}), tmp_path)


def test_modules_travel_by_value_only_on_request(tmp_path, monkeypatch):
    source = tmp_path / "beside_main.py"
    source.write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import beside_main

    blob = store_function(Call(beside_main.double, (4,), {}), tmp_path, [beside_main])
    monkeypatch.delitem(sys.modules, "beside_main")
    source.unlink()
    call = load_call(*read_blob(blob))
    assert call.function(*call.args) == 8


def test_commands_of_functions_are_known_as_such(tmp_path):
    assert is_function(command_of(tmp_path / "blob"))
    assert not is_function(["python", "-m", "mlsched.api.other", "x"])
    assert not is_function(["python", "train.py"])
