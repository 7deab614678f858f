"""Row-level security for the rows; the files themselves are guarded by the view alone."""

from django.db import migrations

from erp_site.rls import tenant_policy


class Migration(migrations.Migration):
    dependencies = [("attachments", "0001_initial")]
    operations = [tenant_policy("attachments_attachment")]
