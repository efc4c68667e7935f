"""Buckets of S3 as a store: AWS, Ceph's gateway, MinIO and others that honour conditional writes.

    open_store("s3://BUCKET/PREFIX")

The endpoint, region and credentials come from AWS's usual variables and files, in each process
anew: a store travels as its address. Commits rest on ``If-None-Match: *``.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from mlsched.errors import (
    ConfigError,
    ConflictError,
    MlschedError,
    PipelineError,
    UnreachableError,
)
from mlsched_pipelines.stores import Entry
from mlsched_pipelines.stores.clients import call, find_client
from mlsched_pipelines.stores.ranges import TAIL_BYTES, RangeFile
from mlsched_pipelines.stores.refusals import TakenError
from mlsched_pipelines.stores.scratches import scratch_path
from mlsched_pipelines.stores.uploads import abort_uploads, delete_each, upload

WRITER = "mlsched-writer"
"""Metadata of what `S3Store.put_new` makes: which call made it."""

PUT_S_MAX = 20.0
"""No object is put again after this; a dead server is given up after 60 s at the most."""

WHOLE_BYTES_MAX = 16 << 20
"""Files up to this size are sent by one request, from memory."""

_ADDRESS = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{2,254})(/(?P<prefix>.*))?")
_checked: set[tuple[str, str]] = set()

T = TypeVar("T")


class S3Store:
    """Files under a prefix of a bucket. It holds no connection and no secret, and can be pickled.

    Args:
        url: ``s3://BUCKET/PREFIX``; the prefix may be missing.

    Raises:
        ConfigError: the address is none, or a package is not installed.
    """

    def __init__(self, url: str) -> None:
        self._bucket, self._prefix = _parse(url)

    @property
    def url(self) -> str:
        """See `Store.url`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def __reduce__(self) -> tuple[type[S3Store], tuple[str]]:
        return S3Store, (self.url,)

    def check(self) -> None:
        """See `Store.check`; asked once for each endpoint and bucket in a process. Five requests.

        Raises:
            PipelineError: the server ignores If-None-Match, or does not show what was written.
        """
        key = (find_client(self._bucket).settings.place, self._bucket)
        if key in _checked:
            return
        folder = f".probe-{secrets.token_hex(8)}"
        try:
            self._probe(folder, f"{folder}/probe", key[0])
        except BaseException:
            with suppress(MlschedError):
                self.delete([f"{folder}/probe"])
            raise
        self.delete([f"{folder}/probe"])
        _checked.add(key)

    def _probe(self, folder: str, name: str, endpoint: str) -> None:
        won = [self.put_new(name, data) for data in (b"first", b"second")]
        if won != [True, False]:
            raise PipelineError(
                f"{endpoint} ignores If-None-Match: two writers can create one name, so that a "
                "commit could be lost.",
                "Use a store that honours conditional writes: Ceph RGW 16 or newer, AWS S3, MinIO.",
            )
        try:
            found = self.read(name)
        except FileNotFoundError:
            found = b""
        listed = [entry.path for entry in self.list_files(folder)]
        if found != b"first" or listed != [name]:
            raise PipelineError(
                f"{endpoint} does not show what was just written: expected {name} in the list and "
                f"5 bytes in it, found {listed} and {len(found)} bytes.",
                "Use a store that is consistent after a write, without a cache in front.",
            )

    def read(self, path: str) -> bytes:
        """See `Store.read`."""
        return self._look(path, _get)

    def open(self, path: str) -> pa.NativeFile:
        """See `Store.open`: by requests for ranges; the first brings the size and the footer."""
        size_bytes, tail = self._look(path, _get_tail)

        def fetch(starts: list[int], ends: list[int]) -> list[memoryview]:
            return self._call(path, partial(_get_ranges, starts=starts, ends=ends))

        return pa.PythonFile(RangeFile(fetch, size_bytes, tail), mode="r")

    def size(self, path: str) -> int:
        """See `Store.size`."""
        return self.version(path)[0]

    def version(self, path: str) -> tuple[int, str]:
        """Size in bytes and ETag, which differs when the content does.

        Raises:
            FileNotFoundError: there is no such file.
        """
        found = self._look(path, _head)
        return found["size"], found["e_tag"] or ""

    def list_files(self, folder: str) -> list[Entry]:
        """See `Store.list_files`; a request for each thousand."""
        found = self._list(folder)["objects"]
        entries = [
            Entry(self._name(each["path"]), each["size"], each["last_modified"].timestamp())
            for each in found
            # Some tools make an object for a folder: its key ends in a slash.
            if each["path"] != self._key(folder)
        ]
        return sorted(entries, key=lambda entry: entry.path)

    def list_folders(self, folder: str) -> list[str]:
        """See `Store.list_folders`; a request for each thousand."""
        return sorted(self._name(each) for each in self._list(folder)["common_prefixes"])

    def put_new(self, path: str, data: bytes) -> bool:
        """See `Store.put_new`.

        The answer may be lost after the server made the object, and the next try find the name
        taken: each call leaves a word of its own in the object, by which it knows what it made.

        Raises:
            UnreachableError: no answer; the object may be there or still appear.
            ConflictError: the server keeps refusing, and the object is not there.
        """
        word = secrets.token_hex(16)
        deadline = time.monotonic() + PUT_S_MAX
        pause_s = 0.1
        problem: MlschedError
        while True:
            try:
                self._put(path, data, mode="create", attributes={WRITER: word})
            except TakenError:
                if (writer := self._writer(path)) is not None:
                    return writer == word
                # Another's write is on its way, or what it made is gone again.
                problem = ConflictError(
                    f"s3://{self._bucket}/{self._key(path)} cannot be created and is not there: "
                    "others write it at the same time.",
                    "Try again later.",
                )
            except (ConflictError, UnreachableError) as error:
                problem = error
            else:
                return True
            if time.monotonic() + pause_s > deadline:
                break
            time.sleep(pause_s)
            pause_s *= 2
        raise problem

    def scratch(self, folder: str) -> Path:
        """See `Store.scratch`: in a folder of this process, below TMPDIR."""
        return scratch_path()

    def put_file(self, source: Path, path: str) -> None:
        """See `Store.put_file`: large files in parts; a failed upload is aborted."""
        if source.stat().st_size > WHOLE_BYTES_MAX:
            key = self._key(path)
            call(self._bucket, key, lambda client: upload(client, self._bucket, key, source))
        else:
            self._put(path, source, use_multipart=False)
        source.unlink()

    def delete(self, paths: Iterable[str]) -> None:
        """See `Store.delete`; a request for each thousand."""
        keys = [self._key(path) for path in paths]
        if not keys:
            return
        try:
            self._call("", lambda obstore, store, _: obstore.delete(store, keys))
        except FileNotFoundError:
            return
        except PipelineError:
            pass
        else:
            return
        # Ceph asks for rights to the whole bucket where several objects are removed at once.
        call(self._bucket, self._key(""), lambda client: delete_each(client, self._bucket, keys))

    def abort_uploads(self, folder: str, before: float) -> list[str]:
        """Remove the parts of uploads to a folder that began before a time and did not end.

        Args:
            folder: Within the store; folders in it count too.
            before: Seconds since the epoch, by the clock of the store.

        Returns:
            What they would have become, relative to the store.
        """
        key = self._key(folder)
        keys = call(
            self._bucket, key, lambda client: abort_uploads(client, self._bucket, f"{key}/", before)
        )
        return [self._name(each) for each in keys]

    def _put(self, path: str, source: bytes | Path, **options: Any) -> None:
        try:
            self._call(path, lambda obstore, store, key: obstore.put(store, key, source, **options))
        except FileNotFoundError:
            endpoint = find_client(self._bucket).settings.place
            problem = PipelineError(
                f"{endpoint} answers 404 to a write of s3://{self._bucket}/{self._key(path)}.",
                "Is it an S3 server? Check AWS_ENDPOINT_URL_S3.",
            )
        else:
            return
        raise problem

    def _writer(self, path: str) -> str | None:
        """Which call of `put_new` made an object, or empty; None where it is gone again."""

        def head(obstore: Any, store: Any, key: str) -> str:
            found = obstore.get(store, key, options={"head": True}).attributes
            return str(found.get(WRITER, ""))

        try:
            return self._look(path, head)
        except FileNotFoundError:
            return None

    def _list(self, folder: str) -> dict[str, Any]:
        found: dict[str, Any] = self._call(
            folder, lambda obstore, store, key: obstore.list_with_delimiter(store, key or None)
        )
        return found

    def _look(self, path: str, function: Callable[[Any, Any, str], T]) -> T:
        """As `_call`, for what may not be there.

        Keys that may list a prefix only, and not the bucket, are refused what is not there.
        """
        try:
            return self._call(path, function)
        except PipelineError as error:
            problem: Exception = error
        if not self._is_listed(path):
            problem = FileNotFoundError(f"s3://{self._bucket}/{self._key(path)}")
        raise problem

    def _is_listed(self, path: str) -> bool:
        def look(obstore: Any, store: Any, key: str) -> bool:
            folder = key.rpartition("/")[0] or None
            pages = obstore.list(store, folder, offset=key[:-1], chunk_size=1000)
            return any(each["path"] == key for each in next(iter(pages), ()))

        return self._call(path, look)

    def _call(self, path: str, function: Callable[[Any, Any, str], T]) -> T:
        key = self._key(path)
        return call(self._bucket, key, lambda used: function(used.obstore, used.store, key))

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}".strip("/")

    def _name(self, key: str) -> str:
        return key.removeprefix(self._prefix).lstrip("/")


def _parse(url: str) -> tuple[str, str]:
    """Bucket and prefix of an address."""
    found = _ADDRESS.fullmatch(url)
    # What does not match is not shown: people write keys into addresses.
    if found is None:
        raise ConfigError(
            "The address of a store is not s3://BUCKET/PREFIX, with a bucket of 3 or more letters, "
            "digits, dots, hyphens or underscores.",
            "Keys belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws.",
        )
    prefix = (found["prefix"] or "").strip("/")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise ConfigError(
            f"The prefix {prefix!r} of a store on S3 has a part that is empty, . or ..",
            "Write s3://BUCKET/PREFIX with simple names between the slashes.",
        )
    return found["bucket"], prefix


def _head(obstore: Any, store: Any, key: str) -> Any:
    try:
        return obstore.head(store, key)
    except FileNotFoundError:
        # The answer to HEAD has no body that tells a missing bucket from a missing key.
        return obstore.get(store, key).meta


def _get(obstore: Any, store: Any, key: str) -> bytes:
    content: bytes = obstore.get(store, key).bytes().to_bytes()
    return content


def _get_tail(obstore: Any, store: Any, key: str) -> tuple[int, bytes]:
    """Size and last bytes of an object, by one request."""
    try:
        found = obstore.get(store, key, options={"range": {"suffix": TAIL_BYTES}})
        return found.meta["size"], found.bytes().to_bytes()
    except obstore.exceptions.GenericError:
        # An empty object has no last byte, which is an error.
        if (found := obstore.head(store, key))["size"]:
            raise
        return 0, b""


def _get_ranges(
    obstore: Any, store: Any, key: str, *, starts: list[int], ends: list[int]
) -> list[memoryview]:
    found = obstore.get_ranges(store, key, starts=starts, ends=ends, coalesce=0)
    return [memoryview(part) for part in found]
