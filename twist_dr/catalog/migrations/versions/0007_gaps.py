"""Gaps of an archive of WAL are numbers: a timeline, if known, and two LSNs. Earlier versions wrote sentences."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_SENTENCE = re.compile(r" from ([0-9A-F]{1,8})/([0-9A-F]{1,8}) to ([0-9A-F]{1,8})/([0-9A-F]{1,8})")
#: One that cannot be read is met by every recovery.
_ALL = {"timeline": None, "begin": 0, "end": (1 << 64) - 1}

_frontiers = sa.table("wal_frontiers", sa.column("application"), sa.column("target"), sa.column("gaps", sa.JSON))


def upgrade() -> None:
    connection = op.get_bind()
    for application, target, gaps in connection.execute(sa.select(*_frontiers.c)).all():
        ours = sa.and_(_frontiers.c.application == application, _frontiers.c.target == target)
        connection.execute(sa.update(_frontiers).where(ours).values(gaps=[_numbers(gap) for gap in gaps or ()]))


def _numbers(sentence: str) -> dict[str, int | None]:
    found = _SENTENCE.search(sentence)
    if found is None:
        return _ALL
    begin_high, begin, end_high, end = (int(part, 16) for part in found.groups())
    return {"timeline": None, "begin": begin_high << 32 | begin, "end": end_high << 32 | end}
