"""Files of invoices."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = [("companies", "0001_initial"), ("billing", "0001_initial")]
    operations = [
        migrations.CreateModel(
            "Attachment",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("file", models.FileField(max_length=400, upload_to="")),
                ("content_type", models.CharField(max_length=100)),
                ("size", models.BigIntegerField()),
                ("uploaded_at", models.DateTimeField()),
                ("company", models.ForeignKey(on_delete=models.PROTECT, to="companies.company")),
                (
                    "invoice",
                    models.ForeignKey(on_delete=models.CASCADE, related_name="attachments", to="billing.invoice"),
                ),
            ],
        ),
    ]
