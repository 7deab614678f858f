"""The audit trail, partitioned by year so that old years can be dropped whole."""

from django.db import migrations, models

from erp_site.rls import tenant_policy

TABLE = """
    CREATE TABLE audit_auditevent (
        id bigint GENERATED ALWAYS AS IDENTITY,
        occurred_at timestamptz NOT NULL,
        actor varchar(150) NOT NULL,
        action varchar(50) NOT NULL,
        object_type varchar(50) NOT NULL,
        object_id bigint NOT NULL,
        detail jsonb NOT NULL,
        digest bytea NOT NULL,
        company_id bigint NOT NULL REFERENCES companies_company (id) DEFERRABLE INITIALLY DEFERRED,
        PRIMARY KEY (occurred_at, id)
    ) PARTITION BY RANGE (occurred_at)
"""
YEARS = range(2021, 2026)


def partition(year: int) -> str:
    # UTC is spelled out: the bounds must not depend on the time zone of who migrates.
    return (
        f"CREATE TABLE audit_auditevent_{year} PARTITION OF audit_auditevent "
        f"FOR VALUES FROM ('{year}-01-01 00:00:00+00') TO ('{year + 1}-01-01 00:00:00+00')"
    )


class Migration(migrations.Migration):
    initial = True
    dependencies = [("companies", "0001_initial")]
    operations = [
        migrations.RunSQL(
            [
                TABLE,
                *map(partition, YEARS),
                "CREATE TABLE audit_auditevent_rest PARTITION OF audit_auditevent DEFAULT",
                "CREATE INDEX audit_company_time ON audit_auditevent (company_id, occurred_at)",
            ],
            "DROP TABLE audit_auditevent",
            state_operations=[
                migrations.CreateModel(
                    "AuditEvent",
                    [
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                            ),
                        ),
                        ("occurred_at", models.DateTimeField()),
                        ("actor", models.CharField(max_length=150)),
                        ("action", models.CharField(max_length=50)),
                        ("object_type", models.CharField(max_length=50)),
                        ("object_id", models.BigIntegerField()),
                        ("detail", models.JSONField(default=dict)),
                        ("digest", models.BinaryField(max_length=32)),
                        ("company", models.ForeignKey(on_delete=models.PROTECT, to="companies.company")),
                    ],
                    options={
                        "indexes": [models.Index(fields=["company", "occurred_at"], name="audit_company_time")],
                    },
                ),
            ],
        ),
        # A policy of the parent does not hold for who reads a partition by its own name.
        tenant_policy("audit_auditevent"),
        tenant_policy("audit_auditevent_rest"),
        *(tenant_policy(f"audit_auditevent_{year}") for year in YEARS),
    ]
