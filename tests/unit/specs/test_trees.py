from __future__ import annotations

import json
import time

import pytest

from mlsched.errors import SpecError
from mlsched.specs.trees import check_tree, parse_tree, to_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{two}: &{two} [{', '.join(['*' + one] * 9)}]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "bomb": (BOMB, "anchor"),
    "deep flow": ("[" * 2000, "deep"),
    "deep json": ("[" * 2000 + "]" * 2000, "deeper than 32"),
    "deep json of objects": ('{"a":' * 2000 + "1" + "}" * 2000, "deeper than 32"),
    "deep blocks": ("- " * 2000 + "x", "deeper than 32"),
    "large": ("".join(f"k{n}: 1\n" for n in range(100_000)), "256 KiB"),
    "many": ("a:\n- 1\n" + "- 1\n" * 30_000, "15000"),
    "many json": (json.dumps({"a": [1] * 30_000}), "15000"),
    "many keys": ("".join(f"{n:x}k:\n" for n in range(25_000)), "15000"),
    "nul": ("a: \0", "NUL"),
    "utf-16 read as text": ("a: 1".encode("utf-16-le").decode("latin-1"), "NUL"),
    "binary": (bytes(range(1, 256)).decode("latin-1") * 200, "not YAML"),
    "lone surrogate": ("a: \udcff", "UTF-8"),
    "escape": ("a: \x1b[31m", "not YAML"),
    "long number": ("a: " + "9" * 200_000, "64 bits"),
    "long json number": ('{"a": ' + "9" * 200_000 + "}", "64 bits"),
    "long float": ('{"a": 1e999}', "finite"),
    "unclosed": ("a: [1, 2", "not YAML"),
    "long key": ("k" * 200_000 + ": 1\n" + "k" * 2000 + ": [", "YAML"),
    "question marks": ("? " * 100_000, "key must be text"),
    "colons": (": " * 100_000, ""),
    "quotes": ('"' * 200_000, ""),
    "braces": ("{" * 200_000, ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_at_once(name: str) -> None:
    """Nobody can hold up a client or the service with a text, nor crash it."""
    text, word = HOSTILE[name]
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse_tree(text)
    assert time.process_time() - started < 0.5
    assert word in caught.value.message
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &x 1", "anchor"),
        ("a: *x", "alias"),
        ("a: !!str 1", "tag"),
        ("a: !python/object:os.system x", "tag"),
        ("! a", "tag"),
        ("<<: {a: 1}", "merge key"),
        ("a: 1\na: 2", "'a' is given twice"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("a: 1\n---\nb: 2", "second document"),
        ("%YAML 1.1\n---\na: no", "1.2"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "%TAG"),
        ("1: a", "key must be text"),
        ("null: a", "key must be text"),
        ("[a]: b", "key must be text"),
        ("{{a: b}: c}", "key must be text"),
        ("a: .inf", "finite"),
        ("a: -.INF", "finite"),
        ("a: .nan", "finite"),
        ("a: 1e999", "finite"),
        ("a: 9223372036854775808", "64 bits"),
        ("a:\n\t- b", "tab"),
    ],
)
def test_constructs_that_say_one_thing_and_mean_another_are_refused(text: str, word: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_tree(text, source="job.yaml")
    assert caught.value.message.startswith("job.yaml")
    assert word in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("1_0", "1_0"),
        ("12:30:00", "12:30:00"),
        ("2026-11-01", "2026-11-01"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+12", 12),
        ("-3", -3),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"no"', "no"),
        ("=", "="),
        ("<<", "<<"),
        ("x" * 100, "x" * 100),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """A country code, a version or a time of day is never turned into something else."""
    found = parse_tree(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_json_goes_through_the_same_door() -> None:
    document = {"a": [1, 2.5, None, True, "\U0001f600 no"], "b": {"c": "x"}}
    assert parse_tree(json.dumps(document)) == document
    assert parse_tree(json.dumps(document, indent="\t")) == document
    assert parse_tree("{a: b, 'c': [d]}") == {"a": "b", "c": ["d"]}
    with pytest.raises(SpecError, match="finite"):
        parse_tree('{"a": NaN}')


def test_a_byte_order_mark_is_no_part_of_the_document() -> None:
    assert parse_tree("\ufeffa: 1") == {"a": 1}


def test_an_empty_text_is_no_value() -> None:
    assert parse_tree("") is None
    assert parse_tree("# only a comment\n") is None


def test_a_tree_from_elsewhere_meets_the_same_bounds() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for tree, word in (
        (deep, "deeper"),
        ([0] * 30_000, "15000"),
        ({1: 2}, "key"),
        ({"a": b"x"}, "bytes"),
        ({"a": 2**70}, "64 bits"),
    ):
        with pytest.raises(SpecError, match=word):
            check_tree(tree)


def test_written_yaml_is_the_same_for_old_and_new_readers() -> None:
    """What is text stays text, also where YAML 1.1 and 1.2 differ."""
    import yaml

    tree = {
        "a": ["no", "1e3", "0o17", "12:30:00", "1_0", ".inf", "9" * 30, "~", "", "<<", "=", "|"]
    }
    written = to_yaml(tree)
    assert parse_tree(written) == tree
    assert yaml.safe_load(written) == tree


def test_a_script_is_written_as_a_block() -> None:
    """Also one with tabs and with spaces at line ends, as most batch scripts have."""
    script = "#!/bin/bash\n#SBATCH -n 4 \n\n\tpython3 train.py\n"
    tree = {"script": script, "other": script, "list": [["a\nb"], "block0.", "c\n\n"]}
    written = to_yaml(tree)
    assert "script: |\n  #!/bin/bash\n  #SBATCH -n 4 \n\n  \tpython3" in written
    assert "&" not in written
    assert parse_tree(written) == tree
