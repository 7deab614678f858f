"""The digest of the file; null for files that came before it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attachments", "0002_rls")]
    operations = [migrations.AddField("attachment", "sha256", models.BinaryField(max_length=32, null=True))]
