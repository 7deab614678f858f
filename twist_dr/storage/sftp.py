"""A folder on an SSH server as a storage target."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr, model_validator

from twist_dr.storage.options import SettingsPath
from twist_dr.storage.rclone_options import RcloneOptions, RcloneRemote, RemotePath
from twist_dr.storage.target_url import PASSWORD_VARIABLE, given_password, split_url, user_of

_PORT = 22


class SftpOptions(RcloneOptions):
    """A folder on an SSH server, by SFTP. ``known_hosts``: the file with the server's key (``ssh-keyscan``), without which nobody would know who answers.

    Either ``password``, or ``key_file``, a private key, with ``key_passphrase`` where it has one. ``path`` from the user's home on, unless it begins with a slash.
    """

    scheme: ClassVar[str | None] = "sftp"
    url_form: ClassVar[str] = "sftp://USER@HOST/PATH?key_file=FILE&known_hosts=FILE"
    url_variables: ClassVar[Mapping[str, str]] = {"key_passphrase": PASSWORD_VARIABLE}
    credentials_remedy: ClassVar[str] = (
        f"put the user's password into {PASSWORD_VARIABLE} or name his key_file, and allow him to read there"
    )

    type: Literal["sftp"]
    host: str = Field(min_length=1)
    port: int = Field(_PORT, ge=1, le=65535)
    user: str = Field(min_length=1)
    password: SecretStr | None = None
    key_file: SettingsPath | None = None
    key_passphrase: SecretStr | None = None
    known_hosts: SettingsPath
    path: RemotePath = Field(min_length=1)

    @model_validator(mode="after")
    def _one_credential(self) -> SftpOptions:
        if (self.password is None) == (self.key_file is None):
            raise ValueError("either password or key_file")
        if self.key_passphrase is not None and self.key_file is None:
            raise ValueError("key_file beside key_passphrase")
        return self

    @property
    def place(self) -> Hashable:
        return "sftp", self.host.lower(), self.port, self.user, self.path.rstrip("/")

    @property
    def called(self) -> str:
        return f"sftp://{self.user}@{self.host}:{self.port}/{self.path}"

    @property
    def secret_files(self) -> tuple[Path, ...]:
        return () if self.key_file is None else (self.key_file,)

    @property
    def trusted_files(self) -> tuple[Path, ...]:
        return (self.known_hosts,)

    @classmethod
    def of_url(cls, url: str) -> dict[str, Any]:
        parts, given = split_url(url, cls.url_form, ("key_file", "known_hosts"))
        by_key = "key_file" in given
        return {
            "user": user_of(parts, cls.url_form),
            "host": parts.hostname,
            "port": parts.port or _PORT,
            # As in restic's: behind the first slash stands a path from the user's home on, or another slash.
            "path": unquote(parts.path[1:]),
            "known_hosts": "~/.ssh/known_hosts",
            "key_passphrase" if by_key else "password": given_password(needed=not by_key),
            **given,
        }

    @property
    def backend(self) -> RcloneRemote:
        given = {
            "host": self.host,
            "port": str(self.port),
            "user": self.user,
            "known_hosts_file": str(self.known_hosts),
            # An agent of whoever runs this, or commands on the server, are nothing that the settings say.
            "key_use_agent": "false",
            "shell_type": "none",
            # Links that others put there lead elsewhere.
            "skip_links": "true",
            # The server's clock, and one request less.
            "set_modtime": "false",
        }
        if self.password is not None:
            given["pass"] = self.password.get_secret_value()
        if self.key_file is not None:
            given["key_file"] = str(self.key_file)
        if self.key_passphrase is not None:
            given["key_file_pass"] = self.key_passphrase.get_secret_value()
        return RcloneRemote("sftp", given, self.path)
