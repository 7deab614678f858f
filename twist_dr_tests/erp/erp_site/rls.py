"""Row-level security: the one policy that every tenant table has."""

from django.db.migrations import RunSQL

# nullif, because PostgreSQL leaves an empty string (not null) behind after a SET LOCAL; without it the next
# statement of that session would fail on the cast where it should see no rows.
CURRENT_COMPANY = "nullif(current_setting('erp.company_id', true), '')::bigint"


def tenant_policy(table: str, column: str = "company_id") -> RunSQL:
    """FORCE makes the policy hold for the owner of the table too; only superusers and BYPASSRLS see everything."""
    return RunSQL(
        [
            f"CREATE POLICY tenant ON {table} USING ({column} = {CURRENT_COMPANY})",
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ],
        [
            f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY",
            f"DROP POLICY tenant ON {table}",
        ],
    )
