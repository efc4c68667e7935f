"""Output: every byte in order, bounded on disk, and never a reason for a job to fail."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess

import pytest

from mlsched.errors import StoreFullError
from mlsched.model.jobs import EndCause

LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] .*", re.DOTALL)


def test_both_streams_are_kept_apart_in_cri_format(bench):
    job = bench.shell("echo one; echo two >&2; printf three")
    bench.run(job)
    assert bench.output(job) == b"one\nthree"
    assert bench.output(job, "stderr") == b"two\n"
    lines = (bench.files(job).path / "rank-0.log").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert all(LINE.fullmatch(line) for line in lines)
    assert any(line.endswith(b"stdout P three") for line in lines)


def test_binary_output_comes_back_byte_for_byte(bench):
    data = random.Random(5).randbytes(300_000) + b"\n\n\r\n" + bytes(range(256))
    (bench.path / "data").write_bytes(data)
    job = bench.shell("cat data")
    bench.run(job)
    assert bench.output(job) == data


def test_one_line_of_many_megabytes_is_written_in_parts(bench):
    job = bench.shell("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo end")
    bench.run(job)
    assert bench.output(job) == b"x" * 30_000_000 + b"\nend\n"
    lines = (bench.files(job).path / "rank-0.log").read_bytes().split(b"\n")
    assert max(len(line) for line in lines) < 17_000


def test_an_unfinished_line_is_seen_while_the_job_runs(bench):
    """A prompt or a progress bar without a newline."""
    job = bench.shell("printf 'so far'; sleep 100")

    async def work(run):
        await run.node.launch(job)
        await run.started(job)
        await bench.until(lambda: bench.output(job) == b"so far")
        await run.node.stop(job.id, 1, 0)
        await run.ended(job)

    bench.do(work)


@pytest.mark.slow
def test_200_megabytes_stay_within_the_bound(bench):
    """The newest output is kept, the oldest is dropped and counted, and nothing waits for it."""
    bound = 8 << 20
    bench.use(log_bytes_max=bound, files_max=3)
    line = "0123456789" * 8
    job = bench.shell(f"yes {line} | head -c 200000000; echo the end")
    outcome = bench.run(job, 60)
    assert outcome.exit_code == 0
    files = sorted(path.name for path in bench.files(job).path.glob("rank-0.log*"))
    assert files == ["rank-0.log", "rank-0.log.1", "rank-0.log.2"]
    sizes = [(bench.files(job).path / name).stat().st_size for name in files]
    assert max(sizes) <= bound
    kept = bench.output(job)
    assert kept.endswith(b"the end\n")
    assert len(kept) + outcome.output_dropped_bytes == 200_000_000 + len("the end\n")
    assert outcome.output_lost_bytes == 0


def test_short_lines_rotate_within_the_bound(bench):
    """Records are longer than such lines: the bound is on what lies on the disk."""
    bench.use(log_bytes_max=1 << 20, files_max=2)
    job = bench.shell("yes '' | head -c 400000")
    outcome = bench.run(job, 60)
    for path in bench.files(job).path.glob("rank-0.log*"):
        assert path.stat().st_size <= 1 << 20
    assert len(bench.output(job)) + outcome.output_dropped_bytes == 400_000


def test_the_whole_output_survives_rotation_while_it_fits(bench):
    bench.use(log_bytes_max=4 << 20, files_max=4)
    job = bench.shell("seq 1 200000")
    outcome = bench.run(job)
    assert len(list(bench.files(job).path.glob("rank-0.log*"))) > 1
    assert outcome.output_dropped_bytes == 0
    expected = "".join(f"{number}\n" for number in range(1, 200_001)).encode()
    assert hashlib.sha256(bench.output(job)).digest() == hashlib.sha256(expected).digest()


@pytest.fixture
def small_disk(bench):
    """A jobs directory on a disk of 2 MiB."""
    bench.jobs_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "none", str(bench.jobs_dir)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield bench.jobs_dir
    bench.kill_all()
    subprocess.run(["umount", "-l", str(bench.jobs_dir)], check=True)


@pytest.mark.needs_root
def test_a_full_disk_loses_output_but_not_the_exit_status(bench, small_disk):
    job = bench.shell("seq 1 1000000; exit 6")
    outcome = bench.run(job)
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 6)
    kept = bench.output(job)
    expected = "".join(f"{number}\n" for number in range(1, 1_000_001)).encode()
    assert 0 < len(kept) < len(expected)
    assert expected.startswith(kept), "no torn record is left behind"
    assert len(kept) + outcome.output_lost_bytes == len(expected)


@pytest.mark.needs_root
def test_output_goes_on_once_there_is_room_again(bench, small_disk):
    """Something else fills the disk, and somebody frees it while the job runs."""
    filler = small_disk / "filler"
    text = """
echo first; until [ -e go ]; do sleep 0.02; done
head -c 300000 /dev/zero | tr '\\0' x; echo; touch printed
until [ -e on ]; do sleep 0.02; done; echo last"""
    job = bench.shell(text)

    async def work(run):
        await run.node.launch(job)
        await bench.until(lambda: bench.output(job) == b"first\n")
        _fill(filler)
        (bench.path / "go").touch()
        await bench.until((bench.path / "printed").exists)
        filler.unlink()
        (bench.path / "on").touch()
        return await run.ended(job)

    outcome = bench.do(work)
    assert outcome.exit_code == 0
    kept = bench.output(job)
    assert kept.startswith(b"first\n")
    assert kept.endswith(b"last\n")
    assert outcome.output_lost_bytes >= 300_000 - 2 * 65_536, "more than pipes can hold was lost"
    assert len(kept) + outcome.output_lost_bytes == len(b"first\n" + b"x" * 300_000 + b"\nlast\n")


@pytest.mark.needs_root
def test_a_full_disk_at_the_launch_starts_nothing_and_says_so(bench, small_disk):
    _fill(small_disk / "filler")
    job = bench.shell("echo never > witness")

    async def launch(run):
        with pytest.raises(StoreFullError, match="cannot be started now"):
            await run.node.launch(job)

    bench.do(launch)
    assert not (bench.path / "witness").exists()
    (small_disk / "filler").unlink()
    assert bench.run(job).exit_code == 0


def _fill(path):
    """Fill a disk to its last byte."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
    assert os.statvfs(path).f_bfree == 0
