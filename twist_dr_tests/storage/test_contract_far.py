"""The contract of ``twist_dr.storage.base`` on real servers: OpenSSH, Samba, Azurite, fake-gcs-server. A file of its own, so that it runs beside the other."""

from __future__ import annotations

import pytest

from twist_dr_tests.storage.conftest import Place, far_place
from twist_dr_tests.storage.far_places import SERVED
from twist_dr_tests.storage.test_contract import *  # noqa: F403


@pytest.fixture(params=SERVED)
def place(request: pytest.FixtureRequest) -> Place:
    """An empty place on each server in turn."""
    return far_place(request, request.param)
