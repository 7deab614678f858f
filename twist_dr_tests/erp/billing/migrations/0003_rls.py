"""A company sees its own customers and invoices only, whatever the code forgets to ask for."""

from django.db import migrations

from erp_site.rls import tenant_policy


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_due_date")]
    operations = [
        tenant_policy("billing_customer"),
        tenant_policy("billing_invoice"),
        tenant_policy("billing_invoiceline"),
    ]
