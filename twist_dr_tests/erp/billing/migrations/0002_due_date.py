"""Invoices fall due; those written before were due after 14 days."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]
    operations = [
        migrations.AddField("invoice", "due_date", models.DateField(null=True)),
        migrations.RunSQL("UPDATE billing_invoice SET due_date = issued_on + 14", migrations.RunSQL.noop),
        migrations.AlterField("invoice", "due_date", models.DateField()),
    ]
