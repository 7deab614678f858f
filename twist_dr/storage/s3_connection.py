"""The connection to an S3 store: boto3's client, made once and late, and the questions that everything else asks."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from twist_dr.storage.base import valid_key
from twist_dr.storage.s3 import S3Options
from twist_dr.storage.s3_errors import may_not_ask, may_pass, retry_more, s3_errors, status_of
from twist_dr.storage.s3_transfer import now_sending


@dataclass(frozen=True)
class S3Limits:
    """How long a store is waited for, in seconds, and how often it is asked, the first time among them."""

    connect_timeout: float = 10
    read_timeout: float = 60
    max_attempts: int = 5


class S3Connection:
    """The bucket of ``options``, or the part of it below ``prefix`` (empty, or ending with a slash), for target ``name``."""

    def __init__(self, name: str, options: S3Options, prefix: str, limits: S3Limits) -> None:
        self.name, self.options, self.bucket, self.prefix, self.limits = name, options, options.bucket, prefix, limits
        self._lock = threading.Lock()
        self._client: Any = None
        self._reached = False

    @property
    def client(self) -> Any:
        """boto3's client, made when it is first needed: importing boto3 alone takes a third of a second."""
        with self._lock:
            if self._client is None:
                self._client = _make_client(self.options, self.limits)
            return self._client

    @property
    def url(self) -> str:
        """Where it is, for people: without credentials."""
        url, endpoint = f"s3://{self.bucket}/{self.prefix}", self.options.endpoint_url
        return f"{url} at {re.sub('//[^/]*@', '//', endpoint)}" if endpoint else url

    def errors(self, what: str) -> AbstractContextManager[None]:
        """Turn botocore's errors of the block into ours: "cannot ``what``"."""
        return s3_errors(self.name, self.bucket, f"cannot {what}")

    def place(self, key: str) -> dict[str, str]:
        """The arguments by which a request names the object ``key``."""
        return {"Bucket": self.bucket, "Key": self.prefix + valid_key(key)}

    def below(self, prefix: str) -> dict[str, str]:
        """The arguments by which a request names all objects below ``prefix``; empty means all of ours."""
        return {"Bucket": self.bucket, "Prefix": f"{self.prefix}{valid_key(prefix)}/" if prefix else self.prefix}

    def reach(self) -> None:
        """Raise unless the bucket is there and ours. Not HeadBucket: a HEAD's error has no words."""
        with self.errors(f"use the bucket '{self.bucket}'"):
            self.client.list_objects_v2(**self.below(""), MaxKeys=1)
            self._reached = True

    def head(self, key: str, checksum: bool = False) -> dict[str, Any] | None:
        """HeadObject, or ``None`` when the object is positively missing: a missing bucket answers 404 just so."""
        from botocore.exceptions import ClientError

        mode = {"ChecksumMode": "ENABLED"} if checksum else {}
        try:
            head: dict[str, Any] = self.client.head_object(**self.place(key), **mode)
        except ClientError as error:
            if status_of(error) != 404 or not self._reached:
                self.reach()  # As a rule this raises the same error, but with the store's own words.
            if status_of(error) != 404:
                raise
            return None
        self._reached = True
        return head

    def parts(self, place: Mapping[str, str], upload: str) -> list[dict[str, Any]]:
        """ListParts of an unfinished upload; none where the store does not tell: it was removed, or we may not ask."""
        from botocore.exceptions import ClientError

        pages = self.client.get_paginator("list_parts").paginate(**place, UploadId=upload)
        try:
            return [part for page in pages for part in page.get("Parts", ())]
        except ClientError as error:
            if may_pass(error) and not may_not_ask(error):
                raise
            return []


def _make_client(options: S3Options, limits: S3Limits) -> Any:
    import boto3
    import botocore.session
    from botocore.config import Config

    path_style = options.path_style
    if path_style is None:
        path_style = options.endpoint_url is not None or "." in options.bucket
    config = Config(
        retries={"mode": "standard", "total_max_attempts": limits.max_attempts},
        s3={"addressing_style": "path" if path_style else "auto"},
        connect_timeout=limits.connect_timeout,
        read_timeout=limits.read_timeout,
        max_pool_connections=max(10, 2 * options.connections),
        tcp_keepalive=True,
        # We send our own. boto3's trailers are refused by R2, B2 and others (boto3 1.36 and later).
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    core = botocore.session.get_session()
    core.register_component("data_loader", _descriptions())
    session = boto3.session.Session(
        botocore_session=core,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=_shown(options.secret_access_key),
        aws_session_token=_shown(options.session_token),
        region_name=options.region,
    )
    client = session.client("s3", endpoint_url=options.endpoint_url, config=config)
    client.meta.events.register("needs-retry.s3", retry_more(limits.max_attempts))
    client.meta.events.register("before-send.s3", now_sending)
    return client


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


@functools.cache
def _descriptions() -> Any:
    """botocore's descriptions of S3, read once for all targets: a tenth of a second and some megabytes each time."""
    import botocore.session

    return botocore.session.get_session().get_component("data_loader")
