"""Settings per company, as jsonb."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("companies", "0002_rls")]
    operations = [migrations.AddField("company", "preferences", models.JSONField(default=dict))]
