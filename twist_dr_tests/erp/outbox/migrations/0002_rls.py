"""Row-level security for mails."""

from django.db import migrations

from erp_site.rls import tenant_policy


class Migration(migrations.Migration):
    dependencies = [("outbox", "0001_initial")]
    operations = [tenant_policy("outbox_outboxmessage")]
