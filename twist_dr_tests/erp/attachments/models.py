"""Files that belong to invoices."""

from django.db import models

from billing.models import Invoice
from companies.models import Company


class Attachment(models.Model):
    """A file under the media folder, with its size and digest, so that a lost or changed file is noticed."""

    company = models.ForeignKey(Company, models.PROTECT)
    invoice = models.ForeignKey(Invoice, models.CASCADE, related_name="attachments")
    file = models.FileField(max_length=400)
    content_type = models.CharField(max_length=100)
    size = models.BigIntegerField()
    uploaded_at = models.DateTimeField()
    sha256 = models.BinaryField(max_length=32, null=True)

    def __str__(self) -> str:
        return self.file.name
