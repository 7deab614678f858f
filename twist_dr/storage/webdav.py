"""A folder on a WebDAV server (Nextcloud, ownCloud, others) as a storage target."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr

from twist_dr.storage.options import WebAddress
from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote, RemotePath
from twist_dr.storage.target_url import PASSWORD_VARIABLE, given_password, split_url, user_of


class WebdavOptions(RcloneOptions):
    """A folder on a WebDAV server. ``url``: the server's address for WebDAV, of Nextcloud ``https://HOST/remote.php/dav/files/USER``; ``path``: the folder there.

    ``vendor`` says whose server it is: Nextcloud takes large objects in parts. With a second factor in the way, ``password`` is an app password.
    """

    noun: ClassVar[str] = "the WebDAV server"
    scheme: ClassVar[str | None] = "webdav"
    url_form: ClassVar[str] = "webdav:https://USER@HOST/PATH"
    credentials_remedy: ClassVar[str] = (
        f"put the user's password (of Nextcloud an app password) into {PASSWORD_VARIABLE}, and allow him to read there"
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

    @classmethod
    def of_url(cls, url: str) -> dict[str, Any]:
        parts, _ = split_url(url.partition(":")[2], cls.url_form, ())
        user, host = user_of(parts, cls.url_form), parts.netloc.rpartition("@")[2]
        # The folder lies somewhere below the server's own address for WebDAV: whichever that is, the one above the folder will do.
        above, _, folder = parts.path.rstrip("/").rpartition("/")
        address = f"{parts.scheme}://{host}{above}"
        return {"url": address, "user": user, "password": given_password(), "path": unquote(folder)}

    @property
    def backend(self) -> RcloneRemote:
        given = {
            "url": self.url,
            "vendor": self.vendor,
            "user": self.user,
            "pass": self.password.get_secret_value(),
            # rclone's own 10 ms between two requests are for servers of strangers; a small object takes ten of them.
            "pacer_min_sleep": "1ms",
            # The owner's folder alone, where an administrator has mounted others into it.
            "owncloud_exclude_mounts": "true",
        }
        return RcloneRemote("webdav", given, self.path.strip("/"))
