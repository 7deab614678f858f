"""Row-level security for the tenants themselves."""

from django.db import migrations

from erp_site.rls import tenant_policy


class Migration(migrations.Migration):
    dependencies = [("companies", "0001_initial")]
    operations = [tenant_policy("companies_company", "id")]
