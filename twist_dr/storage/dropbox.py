"""A folder in Dropbox as a storage target."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, SecretStr

from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote, RemotePath, Traits

if TYPE_CHECKING:
    from twist_dr.storage.oauth import OAuthClient

#: All that we do there: files, the folders that they lie in, how much space is left.
_SCOPES = ("account_info.read", "files.metadata.read", "files.content.read", "files.content.write")


class DropboxOptions(RcloneOptions):
    """A folder in a Dropbox. ``client_id`` and ``client_secret``: the key and the secret of an app of one's own, made in Dropbox's App Console; ``path``:
    the folder in what this app may see.

    Objects are checked by the content hash that Dropbox computes. Names that differ in the case of letters only are one there. Dropbox keeps what was deleted for 30 days or more, as
    the account's plan says, and does not count it. No server of this kind was at hand to test with.
    """

    consumer: ClassVar[bool] = True
    credentials_remedy: ClassVar[str] = "authorise with the account whose Dropbox it is"
    noun: ClassVar[str] = "Dropbox"
    traits: ClassVar[Traits] = Traits(
        hash="dropbox", case_insensitive=True, notes=("Dropbox keeps what was deleted for 30 days or more.",)
    )

    type: Literal["dropbox"]
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    path: RemotePath = "twist-dr"

    @property
    def place(self) -> Hashable:
        return "dropbox", self.client_id, self.path.strip("/").lower()

    @property
    def called(self) -> str:
        return f"Dropbox: {self.path.strip('/')}"

    @property
    def backend(self) -> RcloneRemote:
        # Each object is there when its sending has ended: a batch waits for others.
        return RcloneRemote("dropbox", {"batch_mode": "off"}, self.path.strip("/"))

    @property
    def oauth(self) -> OAuthClient:
        from twist_dr.storage.oauth import DROPBOX, OAuthClient

        return OAuthClient(DROPBOX, self.client_id, self.client_secret.get_secret_value(), _SCOPES, "code")
