"""A folder on a WebDAV server (Nextcloud, ownCloud, others) as a storage target."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from twist_dr.storage.options import WebAddress
from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote, RemotePath


class WebdavOptions(RcloneOptions):
    """A folder on a WebDAV server. ``url``: the server's address for WebDAV, of Nextcloud ``https://HOST/remote.php/dav/files/USER``; ``path``: the folder there.

    ``vendor`` says whose server it is: Nextcloud takes large objects in parts. With a second factor in the way, ``password`` is an app password.
    """

    noun: ClassVar[str] = "the WebDAV server"
    credentials_remedy: ClassVar[str] = (
        "give user and password (of Nextcloud an app password), and allow him to read there"
    )

    type: Literal["webdav"]
    url: WebAddress
    vendor: Literal["nextcloud", "owncloud", "other"] = "other"
    user: str = Field(min_length=1)
    password: SecretStr
    path: RemotePath = Field(min_length=1)

    @property
    def place(self) -> Hashable:
        return "webdav", self.url.rstrip("/").lower(), self.user, self.path.strip("/")

    @property
    def called(self) -> str:
        return f"{self.url.rstrip('/')}/{self.path.strip('/')}"

    @property
    def backend(self) -> RcloneRemote:
        given = {
            "url": self.url,
            "vendor": self.vendor,
            "user": self.user,
            "pass": self.password.get_secret_value(),
            # The owner's folder alone, where an administrator has mounted others into it.
            "owncloud_exclude_mounts": "true",
        }
        return RcloneRemote("webdav", given, self.path.strip("/"))
