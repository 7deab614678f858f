"""A folder in Google Drive as a storage target."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import SecretStr, model_validator

from twist_dr.storage.options import SettingsPath, spelled
from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote, RemotePath, Traits

if TYPE_CHECKING:
    from twist_dr.storage.machine import Machine
    from twist_dr.storage.oauth import OAuthClient
    from twist_dr.storage.rclone_session import RcloneLimits
    from twist_dr.storage.rclone_target import RcloneTarget

#: As the address of a folder or of a shared drive ends.
DriveId = Annotated[
    str, spelled(r"[A-Za-z0-9_-]+", "an id, which is the end of the address of the folder or shared drive")
]
#: Where a folder of our own lies, unless the settings say.
_FOLDER = "twist-dr"


class GoogleDriveOptions(RcloneOptions):
    """A folder in Google Drive: ``path``, made below the folder ``folder_id``, or in ``shared_drive``, or in the drive of whoever authorises.

    Either an OAuth client of one's own, ``client_id`` and ``client_secret``, or ``service_account_file``; such an account has no space of its own, so it
    stores in a shared drive or, by delegation, as the user ``impersonate``. Without ``folder_id`` and ``shared_drive`` we see only the files that we made.
    """

    asset_kind: ClassVar[str] = "googledrive"
    consumer: ClassVar[bool] = True
    #: support.google.com/a/answer/172541: of one user, in all drives together.
    daily_upload_limit: ClassVar[int | None] = 750 * 10**9
    noun: ClassVar[str] = "Google Drive"
    credentials_remedy: ClassVar[str] = "authorise with an account that may write to that folder"
    traits: ClassVar[Traits] = Traits(
        hash="sha256",
        folder_ids=True,
        largest_object=5 << 40,
        notes=("Google takes 750 GB a day of one user, and some objects a second.",),
    )

    type: Literal["google_drive"]
    folder_id: DriveId | None = None
    shared_drive: DriveId | None = None
    path: RemotePath | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    service_account_file: SettingsPath | None = None
    impersonate: str | None = None

    @model_validator(mode="after")
    def _one_login(self) -> GoogleDriveOptions:
        if (self.client_id is None) != (self.client_secret is None):
            raise ValueError("client_id and client_secret together")
        if (self.client_id is None) == (self.service_account_file is None):
            raise ValueError("either client_id with client_secret, or service_account_file")
        if self.impersonate is not None and self.service_account_file is None:
            raise ValueError("service_account_file beside impersonate")
        if self.service_account_file is not None and self.shared_drive is None and self.impersonate is None:
            raise ValueError("shared_drive or impersonate: a service account has no space of its own")
        return self

    @property
    def place(self) -> Hashable:
        whose = self.impersonate or self.client_id or str(self.service_account_file)
        return "google_drive", self.shared_drive or whose, self.folder_id, self._below

    @property
    def secret_files(self) -> tuple[Path, ...]:
        return () if self.service_account_file is None else (self.service_account_file,)

    @property
    def called(self) -> str:
        where = self.folder_id or self.shared_drive or "My Drive"
        return f"Google Drive: {where}{'/' if self._below else ''}{self._below}"

    @property
    def backend(self) -> RcloneRemote:
        given = {
            "scope": "drive" if self._sees_all else "drive.file",
            "root_folder_id": self.folder_id or "",
            "team_drive": self.shared_drive or "",
            # What cleanup deleted is gone: a trash that fills takes the space that it should have freed.
            "use_trash": "false",
            # When an object was stored, not when its source was written.
            "use_created_date": "true",
            "stop_on_upload_limit": "true",
            # What people put there is no object: links of theirs, and documents that have no bytes.
            "skip_gdocs": "true",
            "skip_shortcuts": "true",
            # Encrypted bytes look like anything. What was stored is read in the hour of need, whatever a scanner took it for.
            "acknowledge_abuse": "true",
            # rclone's own 10 requests a second are for the client that all its users share; one's own has 12,000 a minute.
            "pacer_min_sleep": "10ms",
        }
        if self.service_account_file is not None:
            given["service_account_file"] = str(self.service_account_file)
            given["impersonate"] = self.impersonate or ""
        return RcloneRemote("drive", given, self._below)

    @property
    def oauth(self) -> OAuthClient | None:
        from twist_dr.storage.oauth import GOOGLE, GOOGLE_ALL_FILES, GOOGLE_OWN_FILES, OAuthClient

        if self.client_id is None or self.client_secret is None:
            return None
        secret = self.client_secret.get_secret_value()
        if self._sees_all:
            # Google gives devices the right to files of our own alone.
            return OAuthClient(GOOGLE, self.client_id, secret, (GOOGLE_ALL_FILES,), "address")
        return OAuthClient(GOOGLE, self.client_id, secret, (GOOGLE_OWN_FILES,), "device")

    @property
    def root_id(self) -> str:
        """The folder from which ``path`` goes on, as Google calls it."""
        return self.folder_id or self.shared_drive or "root"

    def target(self, name: str, machine: Machine, limits: RcloneLimits) -> RcloneTarget:
        from twist_dr.storage.drive_target import GoogleDriveTarget

        return GoogleDriveTarget(name, self, machine, limits)

    @property
    def _sees_all(self) -> bool:
        return any((self.folder_id, self.shared_drive, self.service_account_file))

    @property
    def _below(self) -> str:
        if self.path is not None:
            return self.path.strip("/")
        return "" if self.folder_id is not None else _FOLDER
