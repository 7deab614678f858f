"""A folder in OneDrive or in the document library of a SharePoint site as a storage target."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, model_validator

from twist_dr.errors import CredentialsRefused, TargetRefused, TargetUnavailable
from twist_dr.storage.options import spelled
from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote, RemotePath, Traits

if TYPE_CHECKING:
    from twist_dr.storage.oauth import OAuthClient

#: Seconds before the second, third, ... try of a provider that asks for fewer requests.
_PAUSES = (1.0, 4.0, 15.0)
_GRAPH = "https://graph.microsoft.com/v1.0"
#: Who may sign in, by the kind of account: people's own accounts, or those of organisations.
_TENANTS = {"personal": "consumers", "business": "organizations", "sharepoint": "organizations"}


class OneDriveOptions(RcloneOptions):
    """The folder ``path`` of a drive: of whoever authorises (``account: personal`` or ``business``), or of the SharePoint site ``site``.

    ``client_id``: of an app registration of one's own; ``client_secret`` where it has one, and ``client_secret_expires``, the day on which that ends. ``drive_id``: another drive than the one that is found so.
    """

    asset_kind: ClassVar[str] = "onedrive"
    consumer: ClassVar[bool] = True
    noun: ClassVar[str] = "OneDrive"
    credentials_remedy: ClassVar[str] = "authorise with an account that may write to that folder"
    traits: ClassVar[Traits] = Traits(
        hash="quickxor",
        case_insensitive=True,
        folder_ids=True,
        # support.microsoft.com, "Restrictions and limitations in OneDrive and SharePoint".
        longest_path=400,
        largest_object=250 << 30,
        notes=("Microsoft 365 slows down whoever sends much: large backups take what it allows.",),
    )

    type: Literal["onedrive"]
    account: Literal["personal", "business", "sharepoint"]
    client_id: str = Field(min_length=1)
    client_secret: SecretStr | None = None
    client_secret_expires: date | None = None
    tenant: Annotated[str, spelled(r"[A-Za-z0-9.-]+", "the id or the domain of an organisation")] | None = None
    site: Annotated[str, spelled(r"[A-Za-z0-9.-]+(/[^/?#\s]+)*", "HOST/sites/NAME, without https://")] | None = None
    drive_id: Annotated[str, spelled(r"[A-Za-z0-9!_-]+", "an id of letters, digits, '!', '_' and '-'")] | None = None
    path: Annotated[RemotePath, Field(min_length=1)] = "twist-dr"

    @model_validator(mode="after")
    def _one_drive(self) -> OneDriveOptions:
        if self.account == "sharepoint" and self.site is None and self.drive_id is None:
            raise ValueError("site or drive_id beside account: sharepoint")
        if self.account != "sharepoint" and self.site is not None:
            raise ValueError("account: sharepoint beside site")
        return self

    @property
    def place(self) -> Hashable:
        whose = self.drive_id or (self.site or self.client_id).lower()
        return "onedrive", whose, self.path.strip("/").lower()

    @property
    def called(self) -> str:
        return f"OneDrive: {self.site or self.drive_id or self.account}/{self.path.strip('/')}"

    @property
    def backend(self) -> RcloneRemote:
        # What cleanup deleted is gone: a recycle bin that fills takes the space that it should have freed. Encrypted bytes look like anything: what was
        # stored is read in the hour of need, whatever a scanner took it for.
        return RcloneRemote("onedrive", {"hard_delete": "true", "av_override": "true"}, self.path.strip("/"))

    @property
    def oauth(self) -> OAuthClient:
        from twist_dr.storage.oauth import OAuthClient, microsoft

        secret = None if self.client_secret is None else self.client_secret.get_secret_value()
        others = ("Files.ReadWrite.All", "Sites.Read.All") if self.account == "sharepoint" else ("Files.ReadWrite",)
        provider = microsoft(self.tenant or _TENANTS[self.account])
        scopes = (*others, "offline_access")
        return OAuthClient(provider, self.client_id, secret, scopes, "device", self.client_secret_expires)

    def found(self, name: str, access_token: str | None) -> Mapping[str, str]:
        # rclone asks for neither itself: it wants both from whoever set it up.
        if self.drive_id is not None:
            drive = self._asked(name, f"/drives/{quote(self.drive_id)}", access_token)
        elif self.site is not None:
            host, _, path = self.site.partition("/")
            site = self._asked(name, f"/sites/{host}:/{quote(path)}", access_token)
            drive = self._asked(name, f"/sites/{quote(str(site['id']))}/drive", access_token)
        else:
            drive = self._asked(name, "/me/drive", access_token)
        if not isinstance(drive.get("driveType"), str):
            what = "what answers as Microsoft Graph does not say which kind of drive there is"
            remedy = "see what stands between this machine and Microsoft, then run again"
            raise TargetUnavailable(what, remedy=remedy, target=name)
        return {"drive_id": str(drive["id"]), "drive_type": str(drive["driveType"])}

    def _asked(self, name: str, path: str, access_token: str | None) -> Mapping[str, Any]:
        from twist_dr.storage.oauth_http import ask

        for pause in (*_PAUSES, None):
            try:
                answer = ask(name, f"{_GRAPH}{path}", bearer=access_token)
                break
            except TargetUnavailable:
                if pause is None:
                    raise
                time.sleep(pause)
        if answer.status == 200 and "id" in answer.document:
            return answer.document
        what = f"Microsoft does not show the drive (HTTP {answer.status})"
        if answer.status == 401:
            remedy = f"run: twist-dr targets authorize {name}"
            raise CredentialsRefused(what, remedy=remedy, target=name)
        remedy = f"correct site or drive_id of storage_targets.{name}, or allow the account to read it"
        raise TargetRefused(what, remedy=remedy, target=name)
