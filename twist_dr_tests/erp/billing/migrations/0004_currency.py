"""Invoices name their currency: francs for the companies in Switzerland, euros for all others."""

from django.db import migrations, models

FRANCS = """
    UPDATE billing_invoice SET currency = 'CHF'
    WHERE company_id IN (SELECT id FROM companies_company WHERE country = 'CH')
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_rls")]
    operations = [
        migrations.AddField("invoice", "currency", models.CharField(max_length=3, default="EUR", db_default="EUR")),
        migrations.RunSQL(FRANCS, migrations.RunSQL.noop),
    ]
