"""FILE.py:NAME as a plan: found, called, and when that fails told by the user's own frames."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from mlsched.api.pipelines.loading import load_pipeline, parse_target, send_by_value
from mlsched.api.pipelines.tracebacks import UserCodeError, describe, user_traceback
from mlsched.errors import NotFoundError, PipelineError, SpecError

HEAD = """
from __future__ import annotations
import pyarrow as pa
from mlsched_pipelines import Plan, csv
schema = pa.schema([("id", pa.int64())])
def scan():
    return Plan.scan(csv(FOLDER + "/in.csv", schema))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of a pipeline below its own directory; gives its path."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "in.csv").write_text("id\n1\n2\n")

    def write_file(text: str, name: str = "rides_of_test.py", head: str = HEAD) -> Path:
        path = tmp_path / name
        path.write_text(head.replace("FOLDER", repr(str(tmp_path))) + text)
        return path

    yield write_file
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            if name in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.unregister_pickle_by_value(sys.modules[name])
            del sys.modules[name]


PLAN = 'plan = scan().write("/tmp/out")\n'


def test_a_plan_by_its_name(write):
    made = load_pipeline(parse_target(f"{write(PLAN)}:plan"))
    assert str(made.target) == "rides_of_test.py:plan"
    assert made.make_plan({}).target.dataset == "/tmp/out"
    with pytest.raises(SpecError, match="is a Plan, which takes no parameters"):
        made.make_plan({"a": "1"})


def test_a_function_is_called_with_its_parameters(write):
    path = write(
        "def daily(interval: str, n: int = 1) -> Plan:\n"
        "    return scan().write(f'/tmp/out-{interval}-{n + 1}')\n"
    )
    made = load_pipeline(parse_target(str(path))).make_plan({"n": "4"}, "a")
    assert made.target.dataset == "/tmp/out-a-5"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (PLAN, "plan"),
        ("part = scan()\n" + PLAN, "plan"),
        ("_hidden = scan().write('/tmp/a')\n" + PLAN + "again = plan\n", "plan"),
        ("def daily() -> Plan: ...\ndef other(): ...\n", "daily"),
        ("import mlsched_pipelines as mp\ndef daily() -> mp.Plan: ...\n", "daily"),
        ("part = scan()\n", "part"),
    ],
)
def test_the_only_plan_needs_no_name(write, text, name):
    assert load_pipeline(parse_target(str(write(text)))).target.name == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PLAN + "def daily() -> Plan: ...\n", "holds 2 plans: plan, daily."),
        ("", "holds no Plan"),
        ("x = 5\n", "holds no Plan"),
    ],
)
def test_without_a_name_several_plans_or_none_are_an_error(write, text, told):
    with pytest.raises(SpecError, match=told):
        load_pipeline(parse_target(str(write(text))))


def test_names_that_lead_nowhere_tell_what_there_is(write):
    path = write(PLAN + "def daily(n: int) -> Plan: ...\n")
    with pytest.raises(SpecError, match="has no 'plam'") as caught:
        load_pipeline(parse_target(f"{path}:plam"))
    assert "rides_of_test.py:plan" in caught.value.hint
    assert "daily takes n: int" in caught.value.hint
    with pytest.raises(SpecError, match="expected a Plan or a function, found Schema"):
        load_pipeline(parse_target(f"{path}:schema"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(): return 5\n", "expected a Plan, found int"),
        ("def f(): return None\n", "expected a Plan, found None"),
        ("def f(): return scan()\n", "writes nothing"),
        ("async def f(): ...\n", "found coroutine"),
        ("f = scan()\n", "writes nothing"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_what_is_no_plan_that_writes_is_an_error(write, text, told):
    made = load_pipeline(parse_target(f"{write(text)}:f"))
    with pytest.raises(PipelineError, match=told):
        made.make_plan({})


@pytest.mark.parametrize(
    "text", ["rides", "rides.py:", "rides.py:a-b", "rides.txt:x", ":x", "", ".py", "rides.py:a:b"]
)
def test_targets_of_another_form_are_refused(text):
    with pytest.raises(SpecError):
        parse_target(text)


@pytest.mark.parametrize("name", ["a:b.py", "ü m.py", "a.py:b.py", "-.py", "'.py"])
def test_file_names_may_be_odd(write, name):
    path = write(PLAN, name)
    for text in (str(path), f"{path}:plan"):
        assert load_pipeline(parse_target(text)).target.name == "plan"


def test_missing_files_directories_and_wrong_encodings_are_told(tmp_path):
    (tmp_path / "dir.py").mkdir()
    for text, told in (
        (tmp_path / "none.py", "No such file"),
        (tmp_path / "dir.py", "Is a directory"),
        ("\udcff.py", "in UTF-8"),
        ("a\x00.py", "null byte"),
        ("x" * 5000 + ".py", "too long"),
    ):
        with pytest.raises(SpecError, match=told):
            parse_target(f"{text}:plan")


def test_a_file_may_have_the_name_of_another_module(write):
    for name in ("json.py", "numpy.py", "__main__.py", "mlsched.py"):
        made = load_pipeline(parse_target(str(write(PLAN, name))))
        assert made.module.__name__.startswith("pipeline_file_")
    import json

    assert json.loads("1") == 1


def test_two_edits_within_a_second_are_both_seen(write):
    for number in (1, 2):
        path = write(f"plan = scan().write('/tmp/out{number}')\n")
        assert load_pipeline(parse_target(str(path))).make_plan({}).target.dataset[-1] == str(
            number
        )
    assert not (path.parent / "__pycache__").exists()


def test_neighbours_are_imported_and_travel_by_value(write, tmp_path):
    write("def double(x):\n    return 2 * x\n", "neighbour_of_test.py", head="")
    (tmp_path / "package_of_test").mkdir()
    (tmp_path / "package_of_test" / "__init__.py").write_text("")
    (tmp_path / "package_of_test" / "deep.py").write_text("def more(x):\n    return x + 1\n")
    path = write(
        "import neighbour_of_test\nfrom package_of_test.deep import more\n"
        "def work(x):\n    return more(neighbour_of_test.double(x))\n" + PLAN
    )
    code = (
        "import sys, cloudpickle; from mlsched.api.pipelines.loading import *\n"
        "made = load_pipeline(parse_target(sys.argv[1])); made.make_plan({})\n"
        "print(*send_by_value(made.target.file), file=sys.stderr)\n"
        "sys.stdout.buffer.write(cloudpickle.dumps(made.module.work))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, check=False, timeout=60
    )
    names = "neighbour_of_test package_of_test package_of_test.deep rides_of_test"
    assert made.stderr.decode().strip() == names
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(20))"
    found = subprocess.run(
        [sys.executable, "-c", code], input=made.stdout, capture_output=True, cwd="/",
        check=False, timeout=60,
    )  # fmt: skip
    assert found.stdout == b"41\n", found.stderr


def test_installed_packages_and_ours_travel_by_name(write):
    sent = send_by_value(Path(__file__).parents[3] / "rides.py")
    assert not [name for name in sent if name.partition(".")[0] in ("mlsched", "numpy", "pyarrow")]


@pytest.mark.parametrize(
    ("text", "told", "frame"),
    [
        ("{}['x']\n", "KeyError: 'x'", "line 8, in <module>"),
        ("x = (\n", "SyntaxError", "line 8"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError", "line 8, in <module>"),
        ("raise SystemExit(3)\n", "SystemExit: 3", "line 8, in <module>"),
    ],
)
def test_errors_of_the_file_are_told_by_its_own_frames(write, text, told, frame):
    with pytest.raises(UserCodeError, match=told) as caught:
        load_pipeline(parse_target(str(write(text))))
    trace = caught.value.trace
    assert frame in trace
    assert "rides_of_test.py" in trace
    assert not [word for word in ("loading.py", "importlib") if word in trace]
    assert caught.value.to_dict()["traceback"] == trace


def test_errors_of_the_function_are_told_by_its_own_frames(write):
    path = write("def f(n: int):\n    return inner(n)\ndef inner(n):\n    return 1 / n\n")
    with pytest.raises(UserCodeError, match="ZeroDivisionError") as caught:
        load_pipeline(parse_target(f"{path}:f")).make_plan({"n": "0"})
    assert caught.value.trace.splitlines()[0] == "Traceback (most recent call last):"
    assert "in f\n" in caught.value.trace
    assert "return 1 / n" in caught.value.trace
    assert "parameters.py" not in caught.value.trace


def test_errors_of_ours_keep_their_kind_and_tell_where(write):
    path = write("def f():\n    return Plan.scan(csv('/none/of/it.csv', schema))\n")
    with pytest.raises(NotFoundError) as caught:
        load_pipeline(parse_target(f"{path}:f")).make_plan({})
    trace = user_traceback(caught.value)
    assert "in f\n" in trace
    assert "mlsched_pipelines" not in trace


def test_an_interrupt_passes(write):
    with pytest.raises(KeyboardInterrupt):
        load_pipeline(parse_target(str(write("raise KeyboardInterrupt\n"))))


def test_exceptions_that_cannot_be_told_are_told():
    class Odd(Exception):
        def __str__(self):
            raise ValueError("no")

    assert describe(Odd()).startswith("test_exceptions_that_cannot_be_told_are_told.<locals>.Odd")
    assert describe(ValueError("\udcff")) == "ValueError: \\udcff"
    assert describe(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert user_traceback(ValueError("never raised")) == ""


def test_code_that_came_by_value_is_shown_with_its_file(write):
    path = write("def breaks():\n    raise ValueError('bad')\n" + PLAN)
    made = load_pipeline(parse_target(str(path)))
    made.make_plan({})
    arrived = pickle.loads(cloudpickle.dumps(made.module.breaks))
    assert arrived.__code__.co_filename == "<dynamic-code>"
    try:
        arrived()
    except ValueError as error:
        error.__traceback__ = error.__traceback__.tb_next
        trace = user_traceback(error)
    assert f'File "{path}", line 9, in breaks' in trace
    assert "raise ValueError('bad')" in trace
