"""Kubeconfig contexts and service accounts: which API server, and who asks.

Loads both by the ``kubernetes`` package, so that exec plugins, OIDC and rotated tokens work as
they do for kubectl. Names of contexts are read from the files alone, since the package takes a
second to import.
"""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsched.errors import ConfigError

if TYPE_CHECKING:
    from kubernetes.client import Configuration

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

TOKEN_LIFE_S = 30.0
"""How long a token is used before it is asked for again; the package caches it on its own."""


class Access:
    """One user's access to one API server.

    Args:
        configuration: As the ``kubernetes`` package loaded it.
        namespace: Where the context works; ``default`` where it names none.
        context: Its name; ``in-cluster`` for a service account.
    """

    def __init__(self, configuration: Configuration, namespace: str, context: str) -> None:
        self.server: str = str(configuration.host).rstrip("/")
        self.namespace = namespace
        self.context = context
        self._configuration = configuration
        self._token = ""
        self._token_until_s = 0.0
        self.has_token = bool(self.authorization())

    def authorization(self) -> str:
        """The Authorization header; empty for a client certificate."""
        now_s = time.monotonic()
        if now_s >= self._token_until_s:
            found = self._configuration.get_api_key_with_prefix("authorization", "BearerToken")
            basic = self._configuration.username and self._configuration.get_basic_auth_token()
            self._token = found or basic or ""
            self._token_until_s = now_s + TOKEN_LIFE_S
        return self._token

    def ssl_context(self) -> ssl.SSLContext | bool:
        """How to check the server, and our certificate if there is one."""
        configuration = self._configuration
        if not self.server.startswith("https:"):
            return True
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
    from kubernetes import config
    from kubernetes.client import Configuration

    configuration = Configuration()
    if not kubeconfig and not context and not _kubeconfig_files() and NAMESPACE_FILE.exists():
        config.load_incluster_config(client_configuration=configuration)
        return Access(configuration, NAMESPACE_FILE.read_text().strip(), "in-cluster")
    try:
        config.load_kube_config(
            config_file=kubeconfig or None,
            context=context or None,
            client_configuration=configuration,
        )
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot use the kubeconfig context {context or '(the current one)'}: {error}",
            "Run 'kubectl config get-contexts' to see what there is.",
        ) from error
    contexts = read_contexts(kubeconfig)
    name = context or contexts.current
    return Access(configuration, contexts.namespaces.get(name) or "default", name)


class Contexts:
    """The contexts of kubeconfig files: their namespaces by name, and the current one."""

    def __init__(self) -> None:
        self.namespaces: dict[str, str] = {}
        self.clusters: dict[str, str] = {}
        self.current = ""


def _kubeconfig_files(kubeconfig: str = "") -> list[Path]:
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    texts = named.split(os.pathsep) if named else [str(Path("~/.kube/config").expanduser())]
    return [path for text in texts if text and (path := Path(text)).is_file()]


def read_contexts(kubeconfig: str = "") -> Contexts:
    """Names of contexts, without their credentials; of several files the first that names one wins.

    Files that are missing or are no kubeconfig count as empty: `load_access` tells what is wrong.
    """
    import yaml

    contexts = Contexts()
    for path in _kubeconfig_files(kubeconfig):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(found, dict):
            _add_contexts(contexts, found)
    return contexts


def _add_contexts(contexts: Contexts, found: dict[str, Any]) -> None:
    contexts.current = contexts.current or str(found.get("current-context") or "")
    for one in found.get("contexts") or ():
        if not isinstance(one, dict) or not isinstance(one.get("context"), dict):
            continue
        name = str(one.get("name"))
        contexts.namespaces.setdefault(name, str(one["context"].get("namespace") or ""))
        contexts.clusters.setdefault(name, str(one["context"].get("cluster") or ""))
