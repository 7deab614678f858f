"""Row-level security for the books."""

from django.db import migrations

from erp_site.rls import tenant_policy


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]
    operations = [tenant_policy("ledger_ledgeraccount"), tenant_policy("ledger_ledgerentry")]
