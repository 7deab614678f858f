"""The partition of 2026. Rows of that year may already lie in the default partition, so they are moved."""

from django.db import migrations

from erp_site.rls import tenant_policy

YEAR = "occurred_at >= '2026-01-01 00:00:00+00' AND occurred_at < '2027-01-01 00:00:00+00'"
COLUMNS = "id, occurred_at, actor, action, object_type, object_id, detail, digest, company_id"


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]
    operations = [
        migrations.RunSQL(
            [
                "CREATE TABLE audit_auditevent_2026 (LIKE audit_auditevent)",
                f"WITH moved AS (DELETE FROM audit_auditevent_rest WHERE {YEAR} RETURNING {COLUMNS}) "
                f"INSERT INTO audit_auditevent_2026 ({COLUMNS}) SELECT {COLUMNS} FROM moved",
                "ALTER TABLE audit_auditevent ATTACH PARTITION audit_auditevent_2026 "
                "FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2027-01-01 00:00:00+00')",
            ],
            [
                "ALTER TABLE audit_auditevent DETACH PARTITION audit_auditevent_2026",
                f"INSERT INTO audit_auditevent ({COLUMNS}) OVERRIDING SYSTEM VALUE "
                f"SELECT {COLUMNS} FROM audit_auditevent_2026",
                "DROP TABLE audit_auditevent_2026",
            ],
        ),
        tenant_policy("audit_auditevent_2026"),
    ]
