"""Alembic's entry: runs the migrations on the connection, and in the transaction, that ``schema.py`` hands over."""

from alembic import context

from twist_dr.catalog.models import METADATA
from twist_dr.catalog.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
