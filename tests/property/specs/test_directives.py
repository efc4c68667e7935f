from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.errors import SpecError
from mlsched.specs.directives import split_words
from mlsched.specs.documents import JobDocument, load_document, to_document
from mlsched.specs.limits import validate_spec
from mlsched.specs.sbatch import read_sbatch
from mlsched.specs.sbatch_options import read_options
from mlsched.specs.values import parse_array, write_array

lines = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), max_size=60)
OPTIONS = """
    -N 2 -c4 --mem 0 --mem=4G -t 1-0 --gres=gpu:a100:2 --gpus 1 -J a_b # hetjob --nice -W -G -o
    --array=0-9%2 -d afterok:1 --signal=B:USR1@9 -p a,b --export=ALL,A=1 'x y' --time=2 --ntasks 4
"""
optionlike = st.lists(st.sampled_from(OPTIONS.split()), max_size=8).map(" ".join)


@given(st.lists(lines, max_size=6))
def test_words_that_were_quoted_for_a_shell_come_back(words: list[str]) -> None:
    assert split_words(shlex.join(words), "line 1") == tuple(words)


def _read(script: str) -> tuple[str, JobDocument | None]:
    try:
        request = read_sbatch(script)
        validate_spec(request.spec)
    except SpecError as error:
        return error.message + error.hint, None
    return "", JobDocument(request.spec, request.metadata)


@given(st.lists(lines | optionlike, max_size=5))
def test_any_header_gives_a_job_or_a_spec_error(found: list[str]) -> None:
    """And the job is a document that reads back as the same job."""
    error, job = _read("#!/bin/sh\n" + "".join(f"#SBATCH {line}\n" for line in found))
    if job is None:
        assert error.isprintable()
        assert len(error) < 800
    else:
        written = to_document(job.spec, job.metadata)
        assert load_document(written) == job


@given(st.lists(st.from_regex(r"--?[a-z]{1,3}(=\w)?|\w+", fullmatch=True), max_size=6))
def test_every_word_of_a_line_is_read_once(words: list[str]) -> None:
    options = _options_of(words)
    assert len(options) <= sum(len(word) for word in words)


def _options_of(words: list[str]) -> list[object]:
    try:
        return list(read_options(words, 1))
    except SpecError:
        return []


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 50), st.integers(0, 9))
def test_an_array_of_slurm_is_what_a_range_is(first: int, more: int, step: int, most: int) -> None:
    bound = f"%{most}" if most else ""
    array = parse_array(f"{first}-{first + more}:{step}{bound}", "array")
    assert array.indices == tuple(range(first, first + more + 1, step))
    assert array.max_parallel == most
    assert write_array(array).get("count", len(array.indices)) == len(array.indices)


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(SpecError, match="quote"):
        split_words("--name 'x", "line 1")
