"""A remote of an rclone configuration of one's own as a storage target: whatever rclone knows and has no kind of its own here."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import SecretStr

from twist_dr.storage.options import SettingsPath, spelled
from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote

if TYPE_CHECKING:
    from twist_dr.storage.machine import Machine
    from twist_dr.storage.rclone_session import RcloneLimits
    from twist_dr.storage.rclone_target import RcloneTarget


class OwnRemoteOptions(RcloneOptions):
    """A folder on a remote of a file of rclone's: ``remote`` as ``rclone`` takes it, ``NAME:FOLDER``; ``config_file`` as ``rclone config file`` shows it, and ``config_password`` where it is encrypted.

    Tokens in that file are rclone's to renew: use it for nothing else. What was stored is read back.
    """

    scheme: ClassVar[str | None] = "rclone"
    url_form: ClassVar[str] = "rclone:REMOTE:PATH"
    url_variables: ClassVar[Mapping[str, str]] = {
        "config_file": "RCLONE_CONFIG",
        "config_password": "RCLONE_CONFIG_PASS",
    }
    noun: ClassVar[str] = "the remote"
    credentials_remedy: ClassVar[str] = "set up the remote anew, with: rclone config"

    type: Literal["rclone"]
    config_file: SettingsPath
    # No bracket ends a folder: rclone's addresses of objects to read have it between brackets.
    remote: Annotated[
        str, spelled(r"[A-Za-z0-9_][A-Za-z0-9_.+@ -]*:[^\[\]\x00-\x1f]*", "REMOTE:FOLDER, without brackets")
    ]
    config_password: SecretStr | None = None

    @property
    def place(self) -> Hashable:
        return "rclone", str(self.config_file), self.remote.rstrip("/")

    @property
    def called(self) -> str:
        return self.remote

    @property
    def secret_files(self) -> tuple[Path, ...]:
        return (self.config_file,)

    @classmethod
    def of_url(cls, url: str) -> dict[str, Any]:
        # Where rclone itself looks for both.
        configuration = os.environ.get("RCLONE_CONFIG") or "~/.config/rclone/rclone.conf"
        password = os.environ.get("RCLONE_CONFIG_PASS") or None
        return {"remote": url.partition(":")[2], "config_file": configuration, "config_password": password}

    @property
    def backend(self) -> RcloneRemote:
        name, _, path = self.remote.partition(":")
        password = None if self.config_password is None else self.config_password.get_secret_value()
        return RcloneRemote("", path=path, name=name, configuration=self.config_file, configuration_password=password)

    def target(self, name: str, machine: Machine, limits: RcloneLimits) -> RcloneTarget:
        from twist_dr.storage.rclone_own import OwnRemoteTarget

        return OwnRemoteTarget(name, self, machine, limits)
