"""Kubeconfigs whose credentials stand in them, and those that are left to the package."""

from __future__ import annotations

import base64
import sys

import pytest
import yaml

from mlsched.adapters.kubernetes.configs import load_access, read_contexts
from mlsched.adapters.kubernetes.kubeconfigs import load_files, read_static
from mlsched.errors import ConfigError


def config(user, cluster=None, context="prod", **more):
    return {
        "current-context": context,
        "clusters": [{"name": "c", "cluster": {"server": "https://h:1/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u", **more}}],
    }


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write kubeconfigs, and make KUBECONFIG name them."""
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)

    def make(*configs):
        paths = []
        for number, one in enumerate(configs):
            path = tmp_path / f"{number}.yaml"
            path.write_text(one if isinstance(one, str) else yaml.safe_dump(one))
            paths.append(path)
        monkeypatch.setenv("KUBECONFIG", ":".join(map(str, paths)))
        return paths

    return make


def test_a_token_needs_no_package(write):
    write(config({"token": "secret"}, namespace="team"))
    before = "kubernetes" in sys.modules
    access = load_access()
    assert (access.server, access.namespace, access.context) == ("https://h:1", "team", "prod")
    assert access.authorization() == "Bearer secret"
    assert ("kubernetes" in sys.modules) == before


def test_a_token_file_beside_the_kubeconfig_is_read(write, tmp_path):
    (tmp_path / "t").write_text("fresh\n")
    write(config({"tokenFile": "t"}))
    access = load_access(context="prod")
    assert access.authorization() == "Bearer fresh"
    assert access.namespace == "default"


@pytest.mark.parametrize(
    "user",
    [{"exec": {"command": "x"}}, {"auth-provider": {"name": "oidc"}}, {"username": "a"}],
)
def test_what_only_the_package_can_do_is_left_to_it(write, user):
    assert read_static(load_files(write(config(user))), "prod") is None


def test_a_proxy_or_another_server_name_is_left_to_the_package(write, monkeypatch):
    cluster = {"tls-server-name": "other"}
    assert read_static(load_files(write(config({"token": "t"}, cluster))), "prod") is None
    assert read_static(load_files(write(config({}, {"proxy-url": "http://p"}))), "prod") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://p")
    assert read_static(load_files(write(config({"token": "t"}))), "prod") is None


@pytest.mark.parametrize(
    "user",
    [
        {"client-certificate-data": "?"},
        {"client-certificate": "missing.crt"},
        {"tokenFile": "missing"},
    ],
)
def test_credentials_that_cannot_be_read_are_an_error_of_the_kubeconfig(write, user):
    write(config(user))
    with pytest.raises(ConfigError, match="kubeconfig"):
        load_access()


def test_a_certificate_that_is_none_is_an_error_of_the_kubeconfig(write):
    data = base64.b64encode(b"no certificate").decode()
    write(config({"client-certificate-data": data, "client-key-data": data}))
    with pytest.raises(ConfigError, match="cannot be used"):
        load_access().ssl_context()


def test_of_several_files_the_first_that_names_one_wins(write):
    write(config({"token": "a"}, context="x", namespace="one"),
          config({"token": "b"}, context="x", namespace="two"),
          config({}, context="y"))  # fmt: skip
    contexts = read_contexts()
    assert contexts.current == "x"
    assert contexts.namespaces == {"x": "one", "y": ""}
    assert contexts.clusters == {"x": "c", "y": "c"}


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "contexts: 3x", "contexts: [1, {name: x}]"])
def test_a_file_that_is_no_kubeconfig_counts_as_empty(write, text):
    write(text)
    assert read_contexts().namespaces == {}
