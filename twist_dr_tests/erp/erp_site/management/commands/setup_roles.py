"""Roles and grants. They belong to the cluster, not to a migration: a dump of one database does not hold them."""

import os
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, transaction

ROLE = """
    DO $$ BEGIN
        CREATE ROLE {name} {kind};
    EXCEPTION WHEN duplicate_object THEN NULL;  -- also when another database of this cluster was first
    END $$
"""
GRANTS = (
    "GRANT erp_app TO erp_web",
    "GRANT USAGE ON SCHEMA public TO erp_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO erp_app",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO erp_app",
    # For the tables of migrations to come, which this same owner will make.
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO erp_app",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO erp_app",
    # The application reads which migrations ran (for /health) but never writes it, and never rewrites its history.
    "REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM erp_app",
    "REVOKE UPDATE, DELETE ON audit_auditevent FROM erp_app",
)


class Command(BaseCommand):
    """Creates erp_app (group, no login) and erp_web (login), and grants what the application needs."""

    help = "Create the roles erp_app and erp_web with their grants; run it again at will."

    def handle(self, *args: Any, **options: Any) -> None:
        database = connection.ops.quote_name(connection.settings_dict["NAME"])
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(ROLE.format(name="erp_app", kind="NOLOGIN"))
            cursor.execute(ROLE.format(name="erp_web", kind="LOGIN"))
            cursor.execute(f"GRANT CONNECT ON DATABASE {database} TO erp_app")
            for grant in GRANTS:
                cursor.execute(grant)
            # Partitions are reached through their parent alone.
            cursor.execute("SELECT oid::regclass::text FROM pg_class WHERE relispartition AND relkind = 'r'")
            for (partition,) in cursor.fetchall():
                cursor.execute(f"REVOKE ALL ON {partition} FROM erp_app")
            if password := os.environ.get("ERP_WEB_PASSWORD"):
                # Hashed here, so that the server's log never shows the password itself.
                hashed = connection.connection.pgconn.encrypt_password(password.encode(), b"erp_web").decode()
                cursor.execute(f"ALTER ROLE erp_web PASSWORD '{hashed}'")
        self.stdout.write("roles erp_app and erp_web are set up")
