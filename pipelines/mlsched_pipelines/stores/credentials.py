"""Where S3 is and who we are: the settings and the chain of credentials that AWS tools share.

Botocore finds both, so that ``~/.aws``, web identity (EKS), container and instance credentials
mean here what they mean to every other tool. A secret is kept by botocore alone: nothing here holds
one in an attribute, shows one in a ``repr`` or can be pickled.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, NoReturn
from urllib.parse import urlsplit

from msgspec import Struct

from mlsched.errors import ConfigError

DEFAULT_REGION = "us-east-1"
"""Source: the region that S3-compatible servers take for granted, and obstore's default."""

CHAIN = (
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws (AWS_PROFILE), a web identity"
    " (AWS_WEB_IDENTITY_TOKEN_FILE), a container's and an instance's credentials"
)
"""Where credentials are looked for, in this order.

Source: https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
"""

_TALKERS = ("botocore.auth", "botocore.endpoint", "botocore.parsers")
"""What logs requests and answers whole at level DEBUG, those that bring credentials among them."""

LIFE_S = 120
"""A client asks botocore again after this time less `RENEWAL_S`.

Botocore renews what expires 10 to 15 minutes before its end, but only when it is asked.
"""

RENEWAL_S = 60


class Settings(Struct, frozen=True):
    """How S3 is reached."""

    region: str
    endpoint: str | None = None
    """None: AWS's own, for the region."""

    ca_file: str | None = None
    """Certificates that are trusted besides the system's."""

    @property
    def place(self) -> str:
        """The endpoint in words, for messages; without a user and password that may be in it."""
        if self.endpoint is None:
            return f"AWS in {self.region}"
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Credentials:
    """Gives a client the keys that are valid now; obstore calls it before the last ones expire.

    Args:
        found: Botocore's object.
    """

    refresh_threshold = timedelta(seconds=RENEWAL_S)
    """Read by obstore: how long before their end keys are asked for again."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __call__(self) -> dict[str, Any]:
        """The keys, as obstore wants them."""
        keys = self._found.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=LIFE_S),
        }

    def __repr__(self) -> str:
        return "Credentials(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials do not travel: pickle the address, and open it there.")


def load_package(name: str) -> Any:
    """Import a module of the packages that S3 needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"Stores on S3 need the package {name.partition('.')[0]}, which is not installed.",
            "pip install 'mlsched[s3]'",
        ) from error


def open_session() -> Any:
    """A botocore session: the environment and ~/.aws as they are now.

    Raises:
        ConfigError: they cannot be read, or AWS_PROFILE names a profile that is not there.
    """
    _quieten()
    session = load_package("botocore.session").Session()
    errors = load_package("botocore.exceptions")
    problem = None
    try:
        session.get_scoped_config()
    except errors.ProfileNotFound:
        problem = ConfigError(
            f"There is no profile {session.profile!r} in the configuration of AWS (~/.aws).",
            "Set AWS_PROFILE to one of: " + (", ".join(session.available_profiles) or "(none)"),
        )
    except errors.BotoCoreError as error:
        problem = _config_error(error)
    if problem is not None:
        raise problem
    return session


def _quieten() -> None:
    """Keep keys and tokens out of the log of a program that logs everything of everybody."""
    for name in _TALKERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def load_settings(session: Any) -> Settings:
    """The endpoint, region and certificates that the environment or the profile gives.

    Raises:
        ConfigError: the endpoint is no http:// or https:// URL, or the file is not there.
    """
    region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    endpoints = load_package("botocore.configprovider").ConfiguredEndpointProvider(
        full_config=session.full_config,
        scoped_config=session.get_scoped_config(),
        client_name="s3",
    )
    endpoint = endpoints.provide() or None
    if endpoint is not None and not _is_endpoint(endpoint):
        raise ConfigError(
            "The endpoint of S3 is not a URL that begins with https:// or http://, and a host.",
            "Set AWS_ENDPOINT_URL_S3, or endpoint_url in ~/.aws/config, to one.",
        )
    ca_file = session.get_config_variable("ca_bundle") or None
    if ca_file is not None and not os.path.isfile(ca_file):  # noqa: PTH113
        raise ConfigError(
            f"The file of trusted certificates {ca_file} is not there.",
            "Set AWS_CA_BUNDLE to a PEM file.",
        )
    return Settings(region or DEFAULT_REGION, endpoint and endpoint.rstrip("/"), ca_file)


def find_credentials(session: Any) -> Credentials:
    """The first credentials of the chain; takes 1-2 s where only an instance could have some.

    Raises:
        ConfigError: there are none, or those that are there cannot be used.
    """
    errors = load_package("botocore.exceptions")
    problem, found = None, None
    try:
        found = session.get_credentials()
    except errors.BotoCoreError as error:
        problem = _config_error(error)
    if problem is not None:
        raise problem
    if found is None:
        raise ConfigError(f"There are no credentials for S3. Looked for, in turn: {CHAIN}.")
    return Credentials(found)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _config_error(error: Exception) -> ConfigError:
    """Without botocore's words, which may quote what it found."""
    return ConfigError(
        f"The credentials or settings of AWS cannot be used: {type(error).__name__}.",
        f"Looked for, in turn: {CHAIN}. See `aws configure list`.",
    )
