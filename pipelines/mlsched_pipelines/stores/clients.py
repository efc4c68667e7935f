"""Clients of S3: one for each process and bucket, and none that was made before a fork.

The threads of a client do not live on in a forked child, where a call would wait for them forever;
so a child loads the library afresh, from a copy of its file (15 MB, 20 ms).
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mlsched_pipelines.stores.credentials import (
    Settings,
    find_credentials,
    load_package,
    load_settings,
    open_session,
)
from mlsched_pipelines.stores.refusals import Place, explain, is_refusal

CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 15.0
"""The longest silence of a server, in the middle of an answer too."""

REQUEST_S_MAX = 300.0
RETRY_S_MAX = 25.0
"""No request is tried again after this: a dead server is given up after 40 s at the most."""

RENEW_S_MIN = 60.0
"""Who is refused with keys that are older than this looks for new ones: secrets are rotated."""

_EXTENSION = "obstore._obstore"

T = TypeVar("T")


class Client:
    """A connection pool with credentials.

    Attributes:
        obstore: The module, as this process may use it.
        store: Obstore's object for the bucket.
        session: Botocore's, with the same credentials.
        errors: What their calls raise.
    """

    def __init__(self, bucket: str) -> None:
        self.obstore = _load_obstore()
        self.session = open_session()
        self.settings = load_settings(self.session)
        self.made_at = time.monotonic()
        base = self.obstore.exceptions.BaseError
        self.errors: tuple[type[Exception], ...] = (base, OSError, ValueError, *upload_errors())
        self.store = load_package("obstore.store").S3Store(
            bucket,
            config=_config(self.settings),
            client_options=_client_options(self.settings),
            retry_config=_retry_config(),
            credential_provider=find_credentials(self.session),
        )

    def __repr__(self) -> str:
        return f"Client({self.settings.place!r})"


class _State:
    """What one process has; a forked child begins anew."""

    def __init__(self, is_forked: bool = False) -> None:
        self.lock = threading.Lock()
        self.clients: dict[tuple[str, bytes], Client] = {}
        self.is_forked = is_forked


_state = _State()


def _begin_anew() -> None:
    global _state  # noqa: PLW0603
    _state = _State(is_forked=True)


os.register_at_fork(after_in_child=_begin_anew)


def find_client(bucket: str) -> Client:
    """The client of this process for a bucket and AWS's variables as they are now.

    Raises:
        ConfigError: a package, a setting or credentials are missing.
    """
    key = (bucket, _environment())
    with _state.lock:
        if (client := _state.clients.get(key)) is None:
            client = _state.clients[key] = Client(bucket)
        return client


def call(bucket: str, path: str, function: Callable[[Client], T]) -> T:
    """Use a client; what it raises becomes an error of ours, without a word of its text.

    Args:
        bucket: Where.
        path: The key in question, for messages; a folder's may be empty.
        function: Gets the client; called again with a new one when new keys could help.

    Raises:
        FileNotFoundError: there is no such key.
        MlschedError: everything else, see `explain`.
    """
    for is_last in (False, True):
        client = find_client(bucket)
        try:
            return function(client)
        except client.errors as error:
            problem = explain(error, Place(bucket, path, client.settings.place))
            is_old = time.monotonic() - client.made_at >= RENEW_S_MIN
            again = not is_last and is_refusal(error, is_old)
        if not again:
            break
        _forget(client)
    # Outside of the handler, so that the error does not carry the other one with its text.
    raise problem


def forget_clients() -> None:
    """Make all clients anew at their next use."""
    with _state.lock:
        _state.clients.clear()


def _forget(client: Client) -> None:
    with _state.lock:
        kept = {key: each for key, each in _state.clients.items() if each is not client}
        _state.clients = kept


def _environment() -> bytes:
    """A hash of what AWS's variables say, which differs when a client must differ."""
    found = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return hashlib.blake2b(repr(found).encode(), digest_size=16).digest()


def _config(settings: Settings) -> dict[str, Any]:
    """All that obstore would take from the environment otherwise, with other meanings than here."""
    config: dict[str, Any] = {
        "region": settings.region,
        "conditional_put": "etag",
        "virtual_hosted_style_request": settings.endpoint is None,
        "skip_signature": False,
    }
    if settings.endpoint is not None:
        config |= {"endpoint": settings.endpoint, "aws_endpoint_url_s3": settings.endpoint}
    return config


def _client_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_S_MAX),
        "read_timeout": timedelta(seconds=ANSWER_S_MAX),
        "timeout": timedelta(seconds=REQUEST_S_MAX),
        "allow_http": (settings.endpoint or "").startswith("http://"),
    }
    if settings.ca_file is not None:
        options["root_certificate"] = Path(settings.ca_file).read_bytes()
    return options


def upload_errors() -> tuple[type[Exception], ...]:
    """The roots of what boto3 raises."""
    botocore = load_package("botocore.exceptions")
    boto3 = load_package("boto3.exceptions")
    return botocore.BotoCoreError, botocore.ClientError, boto3.Boto3Error


def _retry_config() -> dict[str, Any]:
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5)}
    return {
        "max_retries": 10,
        "retry_timeout": timedelta(seconds=RETRY_S_MAX),
        "backoff": {**backoff, "base": 2},
    }


def _load_obstore() -> ModuleType:
    """The library; in a forked child a new copy, whose threads are the child's own."""
    if _state.is_forked and "obstore" in sys.modules:
        _reload_obstore()
    _state.is_forked = False
    module: ModuleType = load_package("obstore")
    return module


def _reload_obstore() -> None:
    """Replace the modules of obstore; from a copy, since the loader knows files by their inode."""
    source = Path(str(sys.modules[_EXTENSION].__file__))
    for name in [each for each in sys.modules if each.split(".")[0] == "obstore"]:
        del sys.modules[name]
    handle = os.memfd_create("obstore", os.MFD_CLOEXEC)
    try:
        with open(handle, "wb", closefd=False) as copy:
            copy.write(source.read_bytes())
        finder = _CopyFinder(f"/proc/self/fd/{handle}")
        sys.meta_path.insert(0, finder)
        try:
            load_package("obstore.store")
        finally:
            sys.meta_path.remove(finder)
        sys.modules[_EXTENSION].__file__ = str(source)
    finally:
        os.close(handle)


class _CopyFinder(importlib.abc.MetaPathFinder):
    """Finds the extension module of obstore at another path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The extension, or None for any other module."""
        if fullname != _EXTENSION:
            return None
        loader = importlib.machinery.ExtensionFileLoader(fullname, self._path)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)
