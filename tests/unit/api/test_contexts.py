"""Which context counts, and how it is remembered."""

from __future__ import annotations

import pytest

from mlsched.api.contexts import (
    check_context,
    connect_to,
    current_context,
    open_client,
    write_current,
)
from mlsched.config import Paths, load_settings
from mlsched.errors import ConfigError, SpecError

KUBECONFIG = """
current-context: elsewhere
clusters: [{name: c, cluster: {server: "https://h:1"}}]
users: [{name: u, user: {token: t}}]
contexts:
- {name: prod, context: {cluster: c, user: u, namespace: team}}
- {name: staging, context: {cluster: c, user: u}}
"""


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A fresh installation with a kubeconfig of two contexts."""
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("MLSCHED_CONFIG", str(tmp_path / "config.toml"))
    for name in ("MLSCHED_CONTEXT", "MLSCHED_NAMESPACE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return Paths.from_environment()


def test_this_machine_is_the_context_of_whoever_names_none(paths):
    assert current_context(paths) == "local"


def test_the_environment_wins_over_config_toml(paths, monkeypatch):
    write_current(paths.config_file, "prod")
    assert current_context(paths) == "prod"
    monkeypatch.setenv("MLSCHED_CONTEXT", "staging")
    assert current_context(paths) == "staging"


def test_the_rest_of_config_toml_stays_as_it_is(paths):
    rest = '# mine\n[defaults]\nqueue = "night"\n\n[contexts.prod]\nimage = "i:1"\n'
    paths.config_file.write_text(f'current_context = "a"\n{rest}')
    write_current(paths.config_file, "prod")
    assert paths.config_file.read_text() == f'current_context = "prod"\n{rest}'
    settings = load_settings(paths.config_file)
    assert (settings.current_context, settings.contexts["prod"].image) == ("prod", "i:1")
    assert settings.defaults == {"queue": "night"}


@pytest.mark.parametrize("name", ["local", "prod", "staging"])
def test_contexts_of_the_kubeconfig_exist(paths, name):
    assert check_context(name) == name


@pytest.mark.parametrize(
    ("name", "hint"), [("prd", "'prod'"), ("8", "--cpus 8"), ("xyz", "'staging'")]
)
def test_another_context_is_refused_with_what_there_is(paths, name, hint):
    with pytest.raises(ConfigError, match="there is no context") as caught:
        check_context(name)
    assert hint in caught.value.hint


def test_the_namespace_is_that_of_flag_variable_settings_context(paths, monkeypatch):
    def namespace(context, **given):
        return open_client(context, paths, **given).namespace

    assert (namespace("prod"), namespace("staging")) == ("team", "default")
    paths.config_file.write_text('[contexts.prod]\nnamespace = "mine"\n')
    assert namespace("prod") == "mine"
    monkeypatch.setenv("MLSCHED_NAMESPACE", "theirs")
    assert namespace("prod") == "theirs"
    assert namespace("prod", namespace="given") == "given"


def test_a_client_is_kept_until_its_kubeconfig_is_written_anew(paths, monkeypatch, tmp_path):
    first = connect_to("prod")
    assert connect_to("prod") is first
    (tmp_path / "kubeconfig").write_text(KUBECONFIG.replace("token: t", "token: after-login"))
    second = connect_to("prod")
    assert second.connections.access.authorization() == "Bearer after-login"


def test_a_client_is_kept_until_its_settings_are_written_anew(paths):
    first = connect_to("prod")
    paths.config_file.write_text('[contexts.prod]\nnamespace = "mine"\n')
    assert (first.namespace, connect_to("prod").namespace) == ("team", "mine")


def test_a_client_is_not_shared_with_a_process_that_was_forked(paths, monkeypatch):
    """Both would read the answers on one connection: each gets what the other asked for."""
    first = connect_to("prod")
    monkeypatch.setattr("mlsched.api.contexts.os.getpid", lambda: 1)
    assert connect_to("prod") is not first


def test_output_that_cannot_be_shown_is_warned_of_in_python(paths):
    with pytest.warns(RuntimeWarning, match="its pods are gone"):
        connect_to("prod")._on_problem("its pods are gone")


@pytest.mark.parametrize("name", ["../..", "a b", "UP", "x" * 64, "ä"])
def test_a_namespace_that_can_be_none_is_refused_before_it_is_asked_for(paths, name):
    with pytest.raises(SpecError, match="namespace: expected a name"):
        open_client("prod", paths, namespace=name)


def test_the_account_of_a_pod_is_never_the_current_context_of_a_kubeconfig(paths, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="there is no service account here"):
        open_client("in-cluster", paths)


@pytest.mark.parametrize(
    "before",
    ['  current_context = "a"\n', '"current_context" = "a"\n', "current_context='a' # mine\n"],
)
def test_the_current_context_is_replaced_however_it_is_written(paths, before):
    paths.config_file.write_text(f'{before}[defaults]\nqueue = "night"\n')
    write_current(paths.config_file, "prod")
    settings = load_settings(paths.config_file)
    assert (settings.current_context, settings.defaults) == ("prod", {"queue": "night"})


@pytest.mark.parametrize("name", ["\U0001f600", 'a"b\\c', "\x7f", "a\tb"])
def test_a_context_of_any_name_can_be_written(paths, name):
    write_current(paths.config_file, name)
    assert load_settings(paths.config_file).current_context == name


@pytest.mark.parametrize(
    "text", ["not toml", '[contexts.a]\nimage = """\ncurrent_context = 1\n"""']
)
def test_settings_that_would_be_broken_are_left_as_they_are(paths, text):
    paths.config_file.write_text(text)
    with pytest.raises(ConfigError):
        write_current(paths.config_file, "prod")
    assert paths.config_file.read_text() == text
    assert [one.name for one in paths.config_file.parent.glob(".config*")] == []


def test_settings_behind_a_link_stay_there(paths, tmp_path):
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "mlsched.toml"
    real.write_text("")
    real.chmod(0o600)
    paths.config_file.symlink_to(real)
    write_current(paths.config_file, "prod")
    assert load_settings(real).current_context == "prod"
    assert paths.config_file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
