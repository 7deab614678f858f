"""A share of a Windows server or a NAS as a storage target, without mounting it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr

from twist_dr.storage.options import spelled
from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote, RemotePath, Traits
from twist_dr.storage.target_url import PASSWORD_VARIABLE, given_password, split_url, user_of

_PORT = 445


class SmbOptions(RcloneOptions):
    """A folder on a share (SMB 2 and 3), of a Windows server, a NAS or Samba, which need not be mounted. ``domain``: of the user, where he has one.

    ``path``: the folder on the share; empty for all of it. Every object is read back, for such a server tells no checksum. Names that differ in the case of
    letters only are one there.
    """

    scheme: ClassVar[str | None] = "smb"
    url_form: ClassVar[str] = "smb://DOMAIN;USER@HOST/SHARE/PATH"
    credentials_remedy: ClassVar[str] = (
        f"put the user's password into {PASSWORD_VARIABLE}, and allow him to read on the share"
    )
    noun: ClassVar[str] = "the share's server"
    traits: ClassVar[Traits] = Traits(case_insensitive=True)

    type: Literal["smb"]
    host: str = Field(min_length=1)
    port: int = Field(_PORT, ge=1, le=65535)
    share: Annotated[str, spelled(r"[^\[\]/\\\x00-\x1f]+", "the name of a share, without slashes and brackets")]
    user: str = Field(min_length=1)
    password: SecretStr
    domain: str = "WORKGROUP"
    path: RemotePath = ""

    @property
    def place(self) -> Hashable:
        return "smb", self.host.lower(), self.port, self.share.lower(), self.path.strip("/").lower()

    @property
    def called(self) -> str:
        return f"smb://{self.user}@{self.host}:{self.port}/{self.share}/{self.path.strip('/')}".rstrip("/")

    @classmethod
    def of_url(cls, url: str) -> dict[str, Any]:
        parts, _ = split_url(url, cls.url_form, ())
        share, _, path = unquote(parts.path[1:]).partition("/")
        domain, _, user = user_of(parts, cls.url_form).rpartition(";")
        given = {"domain": domain} if domain else {}
        password = given_password()
        return {
            **given,
            "user": user,
            "password": password,
            "host": parts.hostname,
            "port": parts.port or _PORT,
            "share": share,
            "path": path,
        }

    @property
    def backend(self) -> RcloneRemote:
        given = {
            "host": self.host,
            "port": str(self.port),
            "user": self.user,
            "pass": self.password.get_secret_value(),
            "domain": self.domain,
        }
        return RcloneRemote("smb", given, f"{self.share}/{self.path.strip('/')}".rstrip("/"))
