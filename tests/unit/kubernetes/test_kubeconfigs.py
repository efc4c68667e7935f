"""Kubeconfigs whose credentials stand in them, and those that are left to the package."""

from __future__ import annotations

import base64
import sys

import pytest
import yaml

from mlsched.adapters.kubernetes.configs import (
    _kubeconfig_files,
    load_access,
    read_contexts,
    stamp_files,
)
from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.kubeconfigs import Route, load_files, read_static
from mlsched.errors import ConfigError

CERTIFICATE = """
-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUXb3xfKiiMd78P+/SbCqN0nHHtBEwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjcxNDE3MjVaGA8yMTI2MTEwMzE0MTcy
NVowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMcD
MOz68UT0DZ9U+XEX8XQrrmBehZyJsrv/6+TQ5oxTYhHY5KIRGECvFMITvXMIgHfD
o3j8ttxx4DUR2vCUi16jUzBRMB0GA1UdDgQWBBRp+16WtxRRHWuG66ShcRrRKRTP
/TAfBgNVHSMEGDAWgBRp+16WtxRRHWuG66ShcRrRKRTP/TAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0cAMEQCICZpM7APWfh1zJAlNGhq9EVcQVHEHLCxqZBw
g7QTDQN0AiBPePLhwkbE9/Xjbo9S/CUyn5n/PEni/4La12yP2+lXfQ==
-----END CERTIFICATE-----
"""


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
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

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


def test_a_proxy_and_another_server_name_are_known(write, monkeypatch):
    write(config({"token": "t"}, {"tls-server-name": "other", "proxy-url": "http://p:1"}))
    assert load_access().route == Route("http://p:1", "other")


@pytest.mark.parametrize(
    ("server", "proxy"),
    [("https://h:1", "http://p:2"), ("https://inside:1", ""), ("http://h:1", "")],
)
def test_the_usual_variables_name_a_proxy(write, monkeypatch, server, proxy):
    monkeypatch.setenv("HTTPS_PROXY", "http://p:2")
    monkeypatch.setenv("NO_PROXY", "inside")
    write(config({"token": "t"}, {"server": server}))
    assert load_access().route.proxy == proxy


def test_the_package_reads_the_files_that_are_named_now(write, tmp_path):
    """It remembers what KUBECONFIG was when it was imported, which may be another cluster."""
    pytest.importorskip("kubernetes.config")
    user = {"username": "a", "password": "b"}
    for name in ("first", "second"):
        write(config(user, {"server": f"https://{name}"}))
        assert load_access().server == f"https://{name}"


@pytest.mark.parametrize(
    "text", ["\x00", "contexts: 5", "current-context: a\ncontexts: [{name: a, context: 7}]"]
)
def test_a_file_that_is_no_kubeconfig_cannot_be_used(write, text):
    write(text)
    with pytest.raises(ConfigError, match="cannot use the kubeconfig context"):
        load_access()


def test_a_user_that_nobody_describes_is_an_error(write):
    one = config({"token": "t"})
    one["users"] = []
    write(one)
    with pytest.raises(ConfigError, match="of user u, whom no kubeconfig describes"):
        load_access()


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "ä"])
def test_a_token_that_is_none_is_an_error(write, token):
    write(config({"token": token}))
    with pytest.raises(ConfigError, match="token"):
        load_access()


@pytest.mark.parametrize("server", ["h", "h:1", "ftp://h", "https://", "https://h:x"])
def test_an_address_that_is_none_is_an_error(write, server):
    write(config({"token": "t"}, {"server": server}))
    with pytest.raises(ConfigError, match="server: expected https"):
        Connections(load_access())


@pytest.mark.parametrize("proxy", ["p:1", "socks5://p:1"])
def test_a_proxy_of_another_kind_is_an_error(write, proxy):
    write(config({"token": "t"}, {"proxy-url": proxy}))
    with pytest.raises(ConfigError, match="proxy: expected http"):
        Connections(load_access())


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


def test_the_scheme_of_an_address_may_have_any_case(write):
    """A token must not go out without TLS because somebody wrote HTTPS."""
    write(config({"token": "t"}, {"server": "HTTPS://h:1"}))
    assert Connections(load_access())._tls is not None


@pytest.mark.parametrize("value", ["false", "true", 1])
def test_only_true_itself_leaves_a_server_unchecked(write, value):
    write(config({"token": "t"}, {"insecure-skip-tls-verify": value}))
    with pytest.raises(ConfigError, match="insecure-skip-tls-verify: expected true or false"):
        load_access()


def test_data_may_stand_on_several_lines(write):
    text = base64.b64encode(b"x" * 60).decode()
    lines = f"{text[:40]}\n{text[40:]}\n"
    paths = write(config({"client-certificate-data": lines}))
    found = read_static(load_files(paths), "prod")
    assert found.certificate == b"x" * 60


def test_data_that_is_no_ascii_is_an_error_of_the_kubeconfig(write):
    write(config({"client-certificate-data": "ä"}))
    with pytest.raises(ConfigError, match="is no base64"):
        load_access()


def test_a_bundle_of_certificates_may_have_comments_in_any_language(write, tmp_path):
    (tmp_path / "ca.crt").write_text(f"# Főtanúsítvány\n{CERTIFICATE}", encoding="utf-8")
    write(config({"token": "t"}, {"certificate-authority": "ca.crt"}))
    assert load_access().ssl_context().cert_store_stats()["x509"] == 1


def test_paths_stay_what_they_were_when_the_directory_changes(write, tmp_path, monkeypatch):
    (tmp_path / "t").write_text("fresh\n")
    write(config({"tokenFile": "t"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", "0.yaml")
    (tmp_path / "other").mkdir()
    found = read_static(load_files(_kubeconfig_files()), "prod")
    monkeypatch.chdir(tmp_path / "other")
    assert found.authorization() == "Bearer fresh"


def test_a_file_that_cannot_be_looked_at_counts_as_missing(monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/" + 5000 * "x")
    assert read_contexts().namespaces == {}
    assert stamp_files() == ()
