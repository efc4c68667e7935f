"""The certificate of a gang: every member makes the same one from the token, and trusts it alone.

Who does not know the token has no key to it, so that neither side of a connection takes him.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlsched_pipelines.remotes import import_extra

_PURPOSE = b"mlsched gang certificate 1"
_BEGIN, _END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)
"""Wide, for clocks that are wrong: how long it counts is how long the attempt lives."""


def write_certificate(token: str, folder: str) -> tuple[str, str]:
    """Write key and certificate of a token, readable for this user; returns both paths.

    Raises:
        ConfigError: the package cryptography is not installed.
    """
    key, certificate = make_certificate(token)
    paths = (str(Path(folder, "gang.key")), str(Path(folder, "gang.pem")))
    for path, content in zip(paths, (key, certificate), strict=True):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    return paths


def make_certificate(token: str) -> tuple[bytes, bytes]:
    """The key and the certificate of a token, as PEM; the same bytes for the same token."""
    serialization = import_extra("cryptography.hazmat.primitives.serialization", "dask")
    key = _derive_key(token)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, _sign(key).public_bytes(serialization.Encoding.PEM)


def _derive_key(token: str) -> Any:
    kdf = import_extra("cryptography.hazmat.primitives.kdf.hkdf", "dask")
    hashes = import_extra("cryptography.hazmat.primitives.hashes", "dask")
    ed25519 = import_extra("cryptography.hazmat.primitives.asymmetric.ed25519", "dask")
    derived = kdf.HKDF(hashes.SHA256(), 32, salt=None, info=_PURPOSE).derive(bytes.fromhex(token))
    return ed25519.Ed25519PrivateKey.from_private_bytes(derived)


def _sign(key: Any) -> Any:
    """Sign the certificate by its own key; Ed25519 has no randomness in it."""
    x509 = import_extra("cryptography.x509", "dask")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mlsched gang")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, algorithm=None)
    )
