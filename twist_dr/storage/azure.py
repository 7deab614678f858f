"""A container of Azure Blob Storage as a storage target."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, ClassVar, Literal

from pydantic import SecretStr, model_validator

from twist_dr.storage.options import WebAddress, spelled
from twist_dr.storage.rclone_options import BucketPrefix, RcloneOptions, RcloneRemote, Traits


class AzureOptions(RcloneOptions):
    """A container of Azure Blob Storage, or the part of one below ``prefix``. The container must exist.

    One of: ``account_key``; ``sas_token``, a shared access signature of the container that may read, add, create, write, delete and list; or
    ``tenant_id``, ``client_id`` and ``client_secret`` of an app registration with the role Storage Blob Data Contributor there. ``endpoint``: of another
    cloud than the public one (with the account in it, as ``https://ACCOUNT.blob.core.chinacloudapi.cn``), or of a look-alike.

    Every object is read back: the MD5 that Azure shows is the one that the sender claimed. Its space is not known.
    """

    asset_kind: ClassVar[str] = "azure"
    credentials_remedy: ClassVar[str] = "give account_key or sas_token, and allow it to list and read there"
    noun: ClassVar[str] = "Azure"
    traits: ClassVar[Traits] = Traits(staged=False, retries=True)

    type: Literal["azure"]
    account: Annotated[str, spelled(r"[a-z0-9]{3,24}", "a name of 3 to 24 lower-case letters and digits")]
    container: Annotated[
        str, spelled(r"[a-z0-9](-?[a-z0-9]){2,62}", "a name of at least 3 lower-case letters, digits and '-'")
    ]
    prefix: BucketPrefix = ""
    account_key: SecretStr | None = None
    sas_token: SecretStr | None = None
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    endpoint: WebAddress | None = None

    @model_validator(mode="after")
    def _one_credential(self) -> AzureOptions:
        app = [self.tenant_id, self.client_id, self.client_secret]
        if any(app) and not all(app):
            raise ValueError("tenant_id, client_id and client_secret together")
        if [self.account_key is not None, self.sas_token is not None, any(app)].count(True) != 1:
            raise ValueError("one of account_key, sas_token, and tenant_id with client_id and client_secret")
        return self

    @property
    def place(self) -> Hashable:
        return "azure", self._address, self.container, self.prefix

    @property
    def called(self) -> str:
        return f"{self._address}/{self.container}/{self.prefix}".rstrip("/")

    @property
    def backend(self) -> RcloneRemote:
        # The container is its owner's to make: with access for whom, in which region, kept for how long.
        given = {"account": self.account, "endpoint": self._address, "no_check_container": "true"}
        if self.account_key is not None:
            given["key"] = self.account_key.get_secret_value()
        if self.sas_token is not None:
            token = self.sas_token.get_secret_value().lstrip("?")
            given = {"sas_url": f"{self._address}/{self.container}?{token}", "no_check_container": "true"}
        if self.client_secret is not None:
            secret = self.client_secret.get_secret_value()
            given |= {"tenant": self.tenant_id or "", "client_id": self.client_id or "", "client_secret": secret}
        return RcloneRemote("azureblob", given, f"{self.container}/{self.prefix}".rstrip("/"))

    @property
    def _address(self) -> str:
        return (self.endpoint or f"https://{self.account}.blob.core.windows.net").rstrip("/")
