"""The books."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("billing", "0001_initial"),
        ("companies", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="LedgerAccount",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.CharField(max_length=10)),
                ("name", models.CharField(max_length=100)),
                ("company", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="companies.company")),
            ],
        ),
        migrations.CreateModel(
            name="LedgerEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("voucher", models.CharField(max_length=20)),
                ("booked_on", models.DateField()),
                ("text", models.CharField(max_length=200)),
                ("debit", models.DecimalField(decimal_places=2, default=0, max_digits=14)),
                ("credit", models.DecimalField(decimal_places=2, default=0, max_digits=14)),
                ("account", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="ledger.ledgeraccount")),
                ("company", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="companies.company")),
                (
                    "invoice",
                    models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, to="billing.invoice"),
                ),
            ],
            options={
                "verbose_name_plural": "ledger entries",
            },
        ),
        migrations.AddConstraint(
            model_name="ledgeraccount",
            constraint=models.UniqueConstraint(fields=("company", "code"), name="account_code_per_company"),
        ),
        migrations.AddConstraint(
            model_name="ledgerentry",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("credit__gte", 0), ("debit__gte", 0), models.Q(("debit", 0), ("credit", 0), _connector="OR")
                ),
                name="one_side_only",
            ),
        ),
    ]
