"""A bucket of Backblaze B2 as a storage target, by its own protocol."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr

from twist_dr.storage.options import spelled
from twist_dr.storage.rclone_options import BucketPrefix, RcloneOptions, RcloneRemote, Traits


class B2Options(RcloneOptions):
    """A bucket of Backblaze B2, or the part of one below ``prefix``; made, for nobody else, where the key may and it is not there. ``s3`` with its S3 address reaches it, too, and knows Object Lock.

    ``key_id`` and ``application_key`` of a key that may list, read, write and delete files there. Every object is read back: of one that goes in parts the
    SHA-1 is the one that the sender claimed. What is deleted is gone with all its versions. No server of this kind was at hand to test with.
    """

    credentials_remedy: ClassVar[str] = "give key_id and application_key of a key that may list and read files there"
    noun: ClassVar[str] = "Backblaze B2"
    traits: ClassVar[Traits] = Traits(
        staged=False,
        notes=(
            "What an upload in parts left that was killed is paid for until a lifecycle rule of the bucket ends it.",
        ),
    )

    type: Literal["b2"]
    bucket: Annotated[str, spelled(r"[A-Za-z0-9-]{6,63}", "a name of 6 to 63 letters, digits and '-'")]
    prefix: BucketPrefix = ""
    key_id: str = Field(min_length=1)
    application_key: SecretStr

    @property
    def place(self) -> Hashable:
        return "b2", self.bucket.lower(), self.prefix

    @property
    def called(self) -> str:
        return f"b2://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def backend(self) -> RcloneRemote:
        # Else a deleted file is only hidden, and paid for.
        given = {"account": self.key_id, "key": self.application_key.get_secret_value(), "hard_delete": "true"}
        return RcloneRemote("b2", given, f"{self.bucket}/{self.prefix}".rstrip("/"))
