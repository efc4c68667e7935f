"""What boto3 does: large files to S3, in parts of which several are on their way at a time.

It removes the parts of an upload that failed; obstore 0.12 leaves them, invisible and paid for.
Parts of a process that was killed stay until `abort_uploads` removes them, or a lifecycle rule of
the bucket that aborts incomplete multipart uploads.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlsched_pipelines.stores import clients
from mlsched_pipelines.stores.credentials import load_package

PART_BYTES = 8 << 20
"""S3 takes no parts below 5 MiB, nor more than 10,000: boto3 makes them larger where needed."""

PARTS_MAX = 8
TRIES_MAX = 6
"""Of each part, over 15 s: busy servers answer 503. A dead server is given up after 45 s, one that
says nothing after 105 s."""


def upload(client: clients.Client, bucket: str, key: str, source: Path) -> None:
    """Send a file; the object is there whole or not at all.

    Memory: `PARTS_MAX` buffers of 256 KiB. Making the client of boto3 takes 0.2 s.
    """
    transfer = load_package("boto3.s3.transfer")
    config = transfer.TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PARTS_MAX,
    )
    connection = _connect(client)
    try:
        with transfer.S3Transfer(connection, config) as running:
            running.upload_file(str(source), bucket, key)
    finally:
        connection.close()


def abort_uploads(client: clients.Client, bucket: str, prefix: str, before: float) -> list[str]:
    """Remove the parts of uploads that began before a time and did not end; their keys, sorted."""
    connection = _connect(client)
    try:
        pages = connection.get_paginator("list_multipart_uploads")
        found = [
            upload
            for page in pages.paginate(Bucket=bucket, Prefix=prefix)
            for upload in page.get("Uploads", ())
            if upload["Initiated"].timestamp() <= before
        ]
        for each in found:
            with suppress(connection.exceptions.NoSuchUpload):
                connection.abort_multipart_upload(
                    Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"]
                )
    finally:
        connection.close()
    return sorted(each["Key"] for each in found)


def delete_each(client: clients.Client, bucket: str, keys: Sequence[str]) -> None:
    """Remove objects by a request for each; obstore has only one for many."""
    connection = _connect(client)
    try:
        for key in keys:
            connection.delete_object(Bucket=bucket, Key=key)
    finally:
        connection.close()


def _connect(client: clients.Client) -> Any:
    settings = client.settings
    config = load_package("botocore.config").Config(
        connect_timeout=clients.CONNECT_S_MAX,
        read_timeout=clients.ANSWER_S_MAX,
        retries={"mode": "standard", "total_max_attempts": TRIES_MAX},
        max_pool_connections=PARTS_MAX,
        s3={"addressing_style": "path" if settings.endpoint else "auto"},
        # Servers other than AWS's do not know the checksums that boto3 sends by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return client.session.create_client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        verify=settings.ca_file or ssl.get_default_verify_paths().cafile or True,
        config=config,
    )
