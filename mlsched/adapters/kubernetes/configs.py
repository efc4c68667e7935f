"""Kubeconfig contexts and service accounts: which API server, and who asks.

What a kubeconfig says itself is read from its files alone; exec plugins, OIDC and service accounts
are left to the ``kubernetes`` package, which takes a second to import, so that they work as they do
for kubectl.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlsched.adapters.kubernetes.kubeconfigs import (
    Found,
    Route,
    load_files,
    read_route,
    read_static,
)
from mlsched.errors import ConfigError

if TYPE_CHECKING:
    from kubernetes.client import Configuration

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

TOKEN_LIFE_S = 30.0
"""How long a token is used before it is asked for again; the package caches it on its own."""


class Credentials(Protocol):
    """Who asks, and how the server is checked."""

    def authorization(self) -> str:
        """The Authorization header; empty for a client certificate."""
        ...

    def ssl_context(self) -> ssl.SSLContext:
        """How to check the server, and our certificate if there is one."""
        ...


class Access:
    """One user's access to one API server.

    Args:
        server: Its address.
        credentials: Of the user.
        namespace: Where the context works; ``default`` where it names none.
        context: Its name; ``in-cluster`` for a service account.
        route: How the server is reached.
    """

    def __init__(
        self,
        server: str,
        credentials: Credentials,
        namespace: str,
        context: str,
        route: Route | None = None,
    ) -> None:
        self.route = route or Route()
        self.server = server.rstrip("/")
        self.namespace = namespace
        self.context = context
        self._credentials = credentials
        self._token = ""
        self._token_until_s = 0.0
        self.has_token = bool(self.authorization())

    def authorization(self) -> str:
        """The Authorization header; empty for a client certificate."""
        now_s = time.monotonic()
        if now_s >= self._token_until_s:
            self._token = self._credentials.authorization()
            self._token_until_s = now_s + TOKEN_LIFE_S
        return self._token

    def ssl_context(self) -> ssl.SSLContext | bool:
        """How to check the server, and our certificate if there is one."""
        is_https = self.server.lower().startswith("https:")
        return self._credentials.ssl_context() if is_https else True


class PackageCredentials:
    """Credentials that the ``kubernetes`` package keeps fresh.

    Args:
        configuration: As the package loaded it.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def authorization(self) -> str:
        """The Authorization header; empty for a client certificate."""
        configuration = self._configuration
        found = configuration.get_api_key_with_prefix("authorization", "BearerToken")
        basic = configuration.username and configuration.get_basic_auth_token()
        return found or basic or ""

    def ssl_context(self) -> ssl.SSLContext:
        """How to check the server, and our certificate if there is one."""
        configuration = self._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        return context


def load_access(kubeconfig: str = "", context: str = "") -> Access:
    """The access of a context; in a pod without a kubeconfig that of its service account.

    Args:
        kubeconfig: A file; empty for ``KUBECONFIG`` and then ``~/.kube/config``.
        context: Its name; empty for the current one.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    files = _kubeconfig_files(kubeconfig)
    if not kubeconfig and not context and not files and NAMESPACE_FILE.exists():
        return load_in_cluster()
    found = load_files(files)
    name = context or found.current
    static = read_static(found, name)
    if static is not None:
        return Access(static.server, static, static.namespace, name, read_route(found, name))
    return _load_by_package(os.pathsep.join(map(str, files)) or kubeconfig, name, found)


def load_in_cluster() -> Access:
    """The access of the service account of the pod that this runs in.

    Raises:
        ConfigError: this is no pod, or it was given no token.
    """
    from kubernetes import config
    from kubernetes.client import Configuration

    configuration = Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        namespace = NAMESPACE_FILE.read_text().strip()
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"there is no service account here: {error}",
            "Outside of a pod name a context of the kubeconfig; 'mlsched context ls' shows them.",
        ) from error
    credentials = PackageCredentials(configuration)
    return Access(str(configuration.host), credentials, namespace, "in-cluster")


def _load_by_package(kubeconfig: str, context: str, found: Found) -> Access:
    """Where the kubeconfig alone does not do: exec plugins, auth providers.

    The files are named, since the package remembers for ever what KUBECONFIG was at its import.
    """
    from kubernetes import config
    from kubernetes.client import Configuration
    from yaml import YAMLError

    configuration = Configuration()
    try:
        config.load_kube_config(
            config_file=kubeconfig or None,
            context=context or None,
            client_configuration=configuration,
        )
    except (
        config.ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise ConfigError(
            f"cannot use the kubeconfig context {context or '(the current one)'}: {error}",
            "Run 'kubectl config get-contexts' to see what there is.",
        ) from error
    namespace = str(found.contexts.get(context, {}).get("namespace") or "default")
    credentials = PackageCredentials(configuration)
    route = read_route(found, context)
    return Access(str(configuration.host), credentials, namespace, context, route)


class Contexts:
    """The contexts of kubeconfig files: their namespaces by name, and the current one."""

    def __init__(self) -> None:
        self.namespaces: dict[str, str] = {}
        self.clusters: dict[str, str] = {}
        self.current = ""


def _kubeconfig_files(kubeconfig: str = "") -> list[Path]:
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    # Not Path's own, which raise without a home, and where a folder may not be entered.
    usual = os.path.expanduser("~/.kube/config")  # noqa: PTH111
    texts = named.split(os.pathsep) if named else [usual]
    return [Path(text) for text in texts if os.path.isfile(text)]  # noqa: PTH113


def stamp_files(*others: Path) -> tuple[tuple[str, int], ...]:
    """Which kubeconfig files count now, and when each of them and of others was written."""
    stamps = []
    for path in (*_kubeconfig_files(), *others):
        with contextlib.suppress(OSError):
            stamps.append((str(path), path.stat().st_mtime_ns))
    return tuple(stamps)


def read_contexts(kubeconfig: str = "") -> Contexts:
    """Names of contexts, without their credentials; of several files the first that names one wins.

    Files that are missing or are no kubeconfig count as empty: `load_access` tells what is wrong.
    """
    found = load_files(_kubeconfig_files(kubeconfig))
    contexts = Contexts()
    contexts.current = found.current
    for name, entry in found.contexts.items():
        contexts.namespaces[name] = str(entry.get("namespace") or "")
        contexts.clusters[name] = str(entry.get("cluster") or "")
    return contexts
