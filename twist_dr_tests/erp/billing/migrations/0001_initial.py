"""Customers, invoices and their lines."""

import django.contrib.postgres.fields
from django.db import migrations, models
from django.db.models import PROTECT, F


def amount(**options: object) -> models.DecimalField:
    return models.DecimalField(max_digits=14, decimal_places=2, **options)


ID = ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"))


class Migration(migrations.Migration):
    initial = True
    dependencies = [("companies", "0001_initial")]
    operations = [
        migrations.CreateModel(
            "Customer",
            [
                ID,
                ("number", models.IntegerField()),
                ("name", models.CharField(max_length=200)),
                ("street", models.CharField(max_length=200)),
                ("postcode", models.CharField(max_length=10)),
                ("city", models.CharField(max_length=100)),
                ("email", models.EmailField(max_length=254)),
                (
                    "tags",
                    django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None),
                ),
                ("notes", models.TextField(blank=True)),
                ("created_at", models.DateTimeField()),
                ("company", models.ForeignKey(on_delete=PROTECT, to="companies.company")),
            ],
        ),
        migrations.CreateModel(
            "Invoice",
            [
                ID,
                ("number", models.CharField(max_length=20)),
                ("issued_on", models.DateField()),
                ("status", models.CharField(default="open", max_length=10)),
                ("net", amount()),
                ("tax", amount()),
                (
                    "gross",
                    models.GeneratedField(db_persist=True, expression=F("net") + F("tax"), output_field=amount()),
                ),
                ("created_at", models.DateTimeField()),
                ("company", models.ForeignKey(on_delete=PROTECT, to="companies.company")),
                ("customer", models.ForeignKey(on_delete=PROTECT, to="billing.customer")),
            ],
        ),
        migrations.CreateModel(
            "InvoiceLine",
            [
                ID,
                ("position", models.SmallIntegerField()),
                ("description", models.TextField()),
                ("quantity", models.DecimalField(decimal_places=2, max_digits=10)),
                ("unit_price", models.DecimalField(decimal_places=2, max_digits=12)),
                (
                    "amount",
                    models.GeneratedField(
                        db_persist=True, expression=F("quantity") * F("unit_price"), output_field=amount()
                    ),
                ),
                ("company", models.ForeignKey(on_delete=PROTECT, to="companies.company")),
                (
                    "invoice",
                    models.ForeignKey(on_delete=models.CASCADE, related_name="lines", to="billing.invoice"),
                ),
            ],
        ),
        migrations.AddConstraint(
            "customer", models.UniqueConstraint(fields=("company", "number"), name="customer_number_per_company")
        ),
        migrations.AddConstraint(
            "invoice", models.UniqueConstraint(fields=("company", "number"), name="invoice_number_per_company")
        ),
        migrations.AddConstraint(
            "invoiceline", models.UniqueConstraint(fields=("invoice", "position"), name="line_position_per_invoice")
        ),
    ]
