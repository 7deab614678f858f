"""A backup on an SSH server, a share and in two buckets at once, and what one that fails means for the others."""

from __future__ import annotations

import pytest

from twist_dr_tests.site import Site
from twist_dr_tests.storage.far_places import azurite, far_options, gcs, samba, sshd  # noqa: F401
from twist_dr_tests.storage.remote_servers import PASSWORD, AzureServer, FarFolder, GcsServer

FAR = ("ssh", "share", "azure", "gcs")


@pytest.mark.promise(6, 7)
def test_a_backup_lies_on_all_far_targets_though_one_is_refused_and_is_verified_from_a_share_and_a_bucket(
    site: Site, sshd: FarFolder, samba: FarFolder, azurite: AzureServer, gcs: GcsServer  # noqa: F811
) -> None:  # fmt: skip
    secret = {"password": "${FAR_PASSWORD}"}
    targets = {
        "ssh": {**far_options("sftp", sshd), **secret},
        "share": {**far_options("smb", samba), **secret},
        "azure": {**far_options("azure", azurite), "account_key": "${AZURE_KEY}"},
        "gcs": far_options("gcs", gcs),
    }
    refused = {**far_options("smb", samba), "password": "not this one"}
    site.document["storage_targets"] |= {**targets, "refused": refused}
    site.variables |= {"FAR_PASSWORD": PASSWORD, "AZURE_KEY": azurite.key}
    site.save()
    text = site.backup().expect(1).text
    states = {copy.target: copy.state for copy in site.latest().copies}
    assert states == {**dict.fromkeys(("office", "archive", *FAR), "checked"), "refused": "failed"}
    assert "refused:" in text and "the credentials were refused" in text
    for hidden in (PASSWORD, azurite.key, "not this one"):
        assert hidden not in text
    for name in ("share", "azure"):
        site.verify(target=name).expect(0)
