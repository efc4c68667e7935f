"""Who we are to S3 and whom we trust: certificates, credentials, settings."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mlsched.errors import (
    ConfigError,
)
from mlsched_pipelines import Plan, open_dataset, run, table
from mlsched_pipelines.stores import open_store
from mlsched_pipelines.stores.credentials import load_settings, open_session
from tests.controlplane.credentials import Authority
from tests.storage.ceph import Gateway
from tests.storage.fixtures import error_of
from tests.storage.servers import FaultProxy, tls_server

needs_ceph = pytest.mark.needs_ceph
UseS3 = Callable[..., None]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that only ``ca.pem`` knows; ``server.pem`` is for 127.0.0.1."""
    made = Authority()
    (tmp_path / "ca.pem").write_bytes(made.pem)
    for name, host in (("server", "127.0.0.1"), ("other", "other.example")):
        certificate, key = made.server([host])
        (tmp_path / f"{name}.pem").write_bytes(certificate)
        (tmp_path / f"{name}.key").write_bytes(key)
    return made


@needs_ceph
def test_a_certificate_that_is_trusted(
    gateway: Gateway, bucket: str, authority: Authority, use_s3: UseS3, tmp_path: Path
) -> None:
    tls = tls_server(tmp_path / "server.pem", tmp_path / "server.key")
    with FaultProxy(gateway.endpoint, tls) as proxy:
        trusted = {"AWS_CA_BUNDLE": str(tmp_path / "ca.pem")}
        use_s3(**{**gateway.environment(), "AWS_ENDPOINT_URL_S3": proxy.endpoint, **trusted})
        assert open_store(f"s3://{bucket}/{uuid.uuid4().hex}").put_new("x", b"1")


@needs_ceph
@pytest.mark.parametrize("name", ["server", "other"])
def test_a_certificate_of_nobody_or_of_another_host(
    gateway: Gateway,
    bucket: str,
    authority: Authority,
    use_s3: UseS3,
    tmp_path: Path,
    impatient: None,
    name: str,
) -> None:
    trusted = {} if name == "server" else {"AWS_CA_BUNDLE": str(tmp_path / "ca.pem")}
    tls = tls_server(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    with FaultProxy(gateway.endpoint, tls) as proxy:
        use_s3(**{**gateway.environment(), "AWS_ENDPOINT_URL_S3": proxy.endpoint, **trusted})
        error = error_of(open_store(f"s3://{bucket}/{uuid.uuid4().hex}").read, "x")
    assert isinstance(error, ConfigError)
    assert "AWS_CA_BUNDLE" in error.hint


@needs_ceph
def test_tls_where_there_is_none(
    gateway: Gateway, bucket: str, use_s3: UseS3, impatient: None
) -> None:
    endpoint = gateway.endpoint.replace("http:", "https:")
    use_s3(**{**gateway.environment(), "AWS_ENDPOINT_URL_S3": endpoint})
    error = error_of(open_store(f"s3://{bucket}/data").read, "x")
    assert isinstance(error, ConfigError)
    assert "http://" in error.hint


def test_plain_http_to_a_server_with_tls(
    authority: Authority, use_s3: UseS3, tmp_path: Path, impatient: None
) -> None:
    with FaultProxy("", tls_server(tmp_path / "server.pem", tmp_path / "server.key")) as server:
        endpoint = server.endpoint.replace("https:", "http:")
        use_s3(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="K", AWS_SECRET_ACCESS_KEY="S")
        error_of(open_store("s3://bucket/data").read, "x")


# Credentials


@needs_ceph
def test_keys_that_expire_are_renewed(
    gateway: Gateway,
    bucket: str,
    use_s3: UseS3,
    tmp_path: Path,
) -> None:
    """A program gives keys for a while; the old ones are taken away before their time."""
    user = uuid.uuid4().hex[:12]
    keys = [(f"AK{number}{uuid.uuid4().hex[:16]}", uuid.uuid4().hex) for number in range(2)]
    gateway.admin("user", "create", f"--uid={user}", f"--display-name={user}", "--max-buckets=0")
    for access_key, secret_key in keys:
        gateway.admin(
            *("key", "create", f"--uid={user}", "--key-type=s3"),
            *(f"--access-key={access_key}", f"--secret-key={secret_key}"),
        )
    name = f"keys-{user}"
    Gateway(gateway.endpoint, *keys[0], gateway.config, 0).client().create_bucket(Bucket=name)
    answer = (
        '{{"Version": 1, "AccessKeyId": "{}", "SecretAccessKey": "{}", "SessionToken": "",'
        ' "Expiration": "2099-01-01T00:00:00Z"}}'
    )
    (tmp_path / "keys.json").write_text(answer.format(*keys[0]))
    config = tmp_path / "config"
    config.write_text(
        f"[profile rotating]\ncredential_process = cat {tmp_path}/keys.json\n"
        f"region = default\nendpoint_url = {gateway.endpoint}\n"
    )
    use_s3(AWS_CONFIG_FILE=str(config), AWS_PROFILE="rotating")
    store = open_store(f"s3://{name}/data")
    assert store.put_new("x", b"1")
    (tmp_path / "keys.json").write_text(answer.format(*keys[1]))
    gateway.admin("key", "rm", f"--uid={user}", "--key-type=s3", f"--access-key={keys[0][0]}")
    assert store.read("x") == b"1"
    assert store.put_new("y", b"2")


@needs_ceph
def test_keys_for_one_prefix_write_there_and_keys_that_only_read_read(
    gateway: Gateway, bucket: str, use_s3: UseS3
) -> None:
    writer, reader = _make_user(gateway), _make_user(gateway)
    objects, whole = f"arn:aws:s3:::{bucket}/team/*", f"arn:aws:s3:::{bucket}"
    prefix = {"StringLike": {"s3:prefix": ["team/*"]}}
    rules = [
        (writer, ["GetObject", "PutObject", "DeleteObject"], objects, {}),
        (writer, ["ListBucket"], whole, prefix),
        (reader, ["GetObject"], objects, {}),
        (reader, ["ListBucket"], whole, prefix),
    ]
    statements = [
        {
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
            "Action": [f"s3:{action}" for action in actions],
            "Resource": [resource],
            "Condition": condition,
        }
        for (user, _), actions, resource, condition in rules
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    gateway.client().put_bucket_policy(Bucket=bucket, Policy=policy)
    data = Plan.scan(table(pa.table({"x": [1, 2], "y": [3, 3]})))
    plan = data.group_by("y", {"n": "count"}).write(f"s3://{bucket}/team/out")
    use_s3(**writer[1].environment())
    assert run(plan).published
    assert open_store(f"s3://{bucket}/team/out").list_folders("") == ["data", "manifest"]
    error = error_of(run, plan.to(f"s3://{bucket}/other/out"))
    assert "AccessDenied" in error.message
    use_s3(**reader[1].environment())
    assert open_dataset(f"s3://{bucket}/team/out").to_table()["n"].to_pylist() == [2]
    assert not run(plan).published
    assert "AccessDenied" in error_of(run, plan.to(f"s3://{bucket}/team/two")).message


def _make_user(gateway: Gateway) -> tuple[str, Gateway]:
    user, keys = uuid.uuid4().hex[:12], (f"AK{uuid.uuid4().hex[:16]}", uuid.uuid4().hex)
    gateway.admin(
        *("user", "create", f"--uid={user}", f"--display-name={user}"),
        *(f"--access-key={keys[0]}", f"--secret-key={keys[1]}"),
    )
    return user, Gateway(gateway.endpoint, *keys, gateway.config, 0)


KEYS = {"AWS_ACCESS_KEY_ID": "K", "AWS_SECRET_ACCESS_KEY": "S"}


def test_settings_come_from_variables_before_the_profile(use_s3: UseS3, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile lab]\nregion = eu-lab\nendpoint_url = https://lab.example/\nservices = two\n"
        "[profile plain]\nregion = eu-plain\n"
        "[services two]\ns3 =\n  endpoint_url = https://s3.lab.example\n"
    )
    lab = {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "lab"}
    plain = {**lab, "AWS_PROFILE": "plain"}
    for variables, region, endpoint in (
        ({}, "us-east-1", None),
        ({"AWS_DEFAULT_REGION": "a"}, "a", None),
        ({"AWS_DEFAULT_REGION": "a", "AWS_REGION": "b"}, "b", None),
        (plain, "eu-plain", None),
        (lab, "eu-lab", "https://s3.lab.example"),
        ({**lab, "AWS_ENDPOINT_URL": "http://x:1/"}, "eu-lab", "http://x:1"),
        (
            {"AWS_ENDPOINT_URL": "http://x", "AWS_ENDPOINT_URL_S3": "http://y"},
            "us-east-1",
            "http://y",
        ),
    ):
        use_s3(**variables)
        settings = load_settings(open_session())
        assert (settings.region, settings.endpoint) == (region, endpoint)


def test_settings_that_are_wrong(use_s3: UseS3, tmp_path: Path) -> None:
    for variables, word in (
        ({"AWS_ENDPOINT_URL": "lab.example:CANARY"}, "AWS_ENDPOINT_URL_S3"),
        ({"AWS_ENDPOINT_URL_S3": "ftp://CANARY"}, "AWS_ENDPOINT_URL_S3"),
        ({"AWS_PROFILE": "none"}, "AWS_PROFILE"),
        ({"AWS_CA_BUNDLE": str(tmp_path / "none.pem")}, "AWS_CA_BUNDLE"),
    ):
        use_s3(**KEYS, **variables)
        error = error_of(open_store("s3://bucket/data").read, "x")
        assert isinstance(error, ConfigError)
        assert word in error.hint
        assert "CANARY" not in repr(error) + error.hint


def test_without_credentials_the_chain_is_named(use_s3: UseS3) -> None:
    use_s3()
    with pytest.raises(ConfigError, match=r"AWS_PROFILE.*AWS_WEB_IDENTITY_TOKEN_FILE"):
        open_store("s3://bucket/data").read("x")


def test_a_password_in_the_endpoint_is_not_shown(use_s3: UseS3) -> None:
    use_s3(AWS_ENDPOINT_URL="https://user:CANARY@lab.example/s3")
    assert load_settings(open_session()).place == "https://lab.example/s3"
