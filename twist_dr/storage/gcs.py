"""A bucket of Google Cloud Storage as a storage target."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

from twist_dr.storage.options import SettingsPath, WebAddress, spelled
from twist_dr.storage.rclone_options import BucketPrefix, RcloneOptions, RcloneRemote, Traits
from twist_dr.storage.target_url import split_url


class GcsOptions(RcloneOptions):
    """A bucket of Google Cloud Storage, or the part of one below ``prefix``. The bucket must exist, with uniform access.

    ``service_account_file``: the key of a service account with the role Storage Object User there, as Google gives it out; without it the machine's own
    account is used, where it runs at Google. ``endpoint``: of a look-alike, with its path (``http://127.0.0.1:4443/storage/v1/``).

    Objects are checked by the MD5 that Google computes over what it received. Its space is not known.
    """

    asset_kind: ClassVar[str] = "gcs"
    scheme: ClassVar[str | None] = "gs"
    url_form: ClassVar[str] = "gs://BUCKET/PREFIX"
    credentials_remedy: ClassVar[str] = "give service_account_file, and allow it storage.objects.list and get there"
    noun: ClassVar[str] = "Google Cloud Storage"
    traits: ClassVar[Traits] = Traits(staged=False, hash="md5")

    type: Literal["gcs"]
    bucket: Annotated[
        str,
        spelled(
            r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", "the name of a bucket: lower-case letters, digits, '.', '_', '-'"
        ),
    ]
    prefix: BucketPrefix = ""
    service_account_file: SettingsPath | None = None
    endpoint: WebAddress | None = None

    @property
    def place(self) -> Hashable:
        return "gcs", (self.endpoint or "").rstrip("/").lower(), self.bucket, self.prefix

    @property
    def called(self) -> str:
        return f"gs://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def secret_files(self) -> tuple[Path, ...]:
        return () if self.service_account_file is None else (self.service_account_file,)

    @classmethod
    def of_url(cls, url: str) -> dict[str, Any]:
        parts, given = split_url(url, cls.url_form, ("service_account_file",), cls.credentials_remedy, user=False)
        return {"bucket": parts.netloc, "prefix": unquote(parts.path).strip("/"), **given}

    @property
    def backend(self) -> RcloneRemote:
        # A bucket is its owner's to make. With uniform access no object has rights of its own.
        given = {"no_check_bucket": "true", "bucket_policy_only": "true"}
        if self.service_account_file is not None:
            given["service_account_file"] = str(self.service_account_file)
        else:
            given["env_auth"] = "true"
        if self.endpoint is not None:
            given["endpoint"] = self.endpoint
        return RcloneRemote("google cloud storage", given, f"{self.bucket}/{self.prefix}".rstrip("/"))
