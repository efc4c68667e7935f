"""Kubeconfig users whose credentials stand in files: access without the ``kubernetes`` package.

That package takes a second and more to import. What only it can do (exec plugins, auth providers,
passwords) is left to it: `read_static` then gives None.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from mlsched.errors import ConfigError

_CLUSTER_KEYS = frozenset(
    {"server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"}
    | {"tls-server-name", "proxy-url", "disable-compression", "extensions"}
)
_USER_KEYS = frozenset(
    {"token", "tokenFile", "client-certificate", "client-certificate-data", "client-key"}
    | {"client-key-data"}
)


class Static(Struct, frozen=True):
    """What a kubeconfig says of one context, where it says all."""

    server: str
    namespace: str = "default"
    ca: bytes = b""
    """PEM; empty for the certificates that this machine trusts."""
    verify: bool = True
    token: str = ""
    token_file: str = ""
    certificate: bytes = b""
    key: bytes = b""

    def authorization(self) -> str:
        """The Authorization header; a file is read anew each time, since tokens are rotated.

        Raises:
            ConfigError: the file cannot be read.
        """
        token = self.token
        if self.token_file:
            token = _read(self.token_file).decode("utf-8", "replace").strip()
        if not (token.isascii() and token.isprintable()):
            raise ConfigError(
                "the kubeconfig has a token with characters that no token has.",
                "Get a new kubeconfig from whoever runs the cluster.",
            )
        return f"Bearer {token}" if token else ""

    def ssl_context(self) -> ssl.SSLContext:
        """How to check the server, and our certificate if there is one.

        Raises:
            ConfigError: a certificate or key is none.
        """
        try:
            # OpenSSL leaves out what stands between certificates: comments in any language.
            context = ssl.create_default_context(cadata=self.ca.decode("ascii", "ignore") or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                _load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"the kubeconfig has a certificate or key that cannot be used: {error}",
                "Get a new kubeconfig from whoever runs the cluster.",
            ) from error
        return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL reads certificates from files only: one in memory, which no one else can open."""
    handle = os.memfd_create("mlsched-certificate", os.MFD_CLOEXEC)
    try:
        os.write(handle, certificate + b"\n" + key + b"\n")
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


class Route(Struct, frozen=True):
    """How a server is reached."""

    proxy: str = ""
    """Address of an HTTP proxy; empty for none."""
    server_name: str = ""
    """What its certificate must name; empty for the host of its address."""


class Found(Struct):
    """Entries of one or several kubeconfig files; the first that names one wins."""

    current: str = ""
    clusters: dict[str, dict[str, Any]] = {}
    users: dict[str, dict[str, Any]] = {}
    contexts: dict[str, dict[str, Any]] = {}


def load_files(paths: list[Path]) -> Found:
    """Everything in these files; one that is no kubeconfig counts as empty.

    Relative paths in an entry are those beside its file, and are made absolute here.
    """
    found = Found()
    for path in paths:
        tree, folder = _parse(path), path.absolute().parent
        found.current = found.current or str(tree.get("current-context") or "")
        for plural, inner in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            known: dict[str, dict[str, Any]] = getattr(found, plural)
            entries = tree.get(plural)
            for one in entries if isinstance(entries, list) else ():
                if isinstance(one, dict) and isinstance(one.get(inner), dict):
                    known.setdefault(str(one.get("name")), _absolute(one[inner], folder))
    return found


def _parse(path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _absolute(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    keys = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
    paths = {key: str(folder / str(entry[key])) for key in keys if entry.get(key)}
    return {**entry, **paths}


def read_static(found: Found, context: str) -> Static | None:
    """The access of a context; None where the kubeconfig alone does not give it.

    Raises:
        ConfigError: a file that it names cannot be read, it names no user that there is, or does
            not say clearly whether the server is checked.
    """
    entry = found.contexts.get(context)
    cluster = found.clusters.get(str((entry or {}).get("cluster")))
    if entry is None or cluster is None or not cluster.get("server"):
        return None
    named = entry.get("user")
    user = found.users.get(str(named)) if named else {}
    if user is None:
        raise ConfigError(
            f"context {context} is of user {named}, whom no kubeconfig describes.",
            "Run 'kubectl config get-users' to see whom they do.",
        )
    verify = _verifies(cluster)
    if not (user.keys() <= _USER_KEYS and cluster.keys() <= _CLUSTER_KEYS):
        return None
    return Static(
        server=str(cluster["server"]).rstrip("/"),
        namespace=str(entry.get("namespace") or "default"),
        ca=_bytes(cluster, "certificate-authority"),
        verify=verify,
        token=str(user.get("token") or ""),
        token_file=str(user.get("tokenFile") or ""),
        certificate=_bytes(user, "client-certificate"),
        key=_bytes(user, "client-key"),
    )


def _verifies(cluster: Mapping[str, Any]) -> bool:
    """Whether the server's certificate is checked; the text "false" must not count as true."""
    value = cluster.get("insecure-skip-tls-verify") or False
    if not isinstance(value, bool):
        raise ConfigError(
            f"the kubeconfig's insecure-skip-tls-verify: expected true or false, found {value!r}.",
            "Without quotes; 'kubectl config view' shows where it stands.",
        )
    return not value


def read_route(found: Found, context: str) -> Route:
    """How the server of a context is reached: as its cluster says, else by the usual variables."""
    entry = found.contexts.get(context, {})
    cluster = found.clusters.get(str(entry.get("cluster")), {})
    name = str(cluster.get("tls-server-name") or "")
    if cluster.get("proxy-url"):
        return Route(str(cluster["proxy-url"]), name)
    return Route(_proxy_of_environment(str(cluster.get("server") or "")), name)


def _proxy_of_environment(server: str) -> str:
    """Of HTTPS_PROXY or HTTP_PROXY, unless NO_PROXY names the host."""
    names = ("https_proxy", "http_proxy")
    if not any(os.environ.get(one) or os.environ.get(one.upper()) for one in names):
        return ""
    from urllib.request import getproxies, proxy_bypass

    scheme, _, rest = server.partition("://")
    if proxy_bypass(rest.split("/")[0]):
        return ""
    return getproxies().get(scheme, "")


def _bytes(entry: Mapping[str, Any], key: str) -> bytes:
    """Content that stands in an entry as base64, or in a file that it names."""
    data = entry.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode("".join(str(data).splitlines()), validate=True)
        except ValueError as error:
            raise ConfigError(f"the kubeconfig's {key}-data is no base64: {error}.") from error
    return _read(str(entry[key])) if entry.get(key) else b""


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the kubeconfig names {path}, which cannot be read: {error.strerror}.",
            "Run 'kubectl config view' to see where it is named.",
        ) from error
