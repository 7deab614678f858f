"""The catalog's migrations, which Alembic runs on first use."""
