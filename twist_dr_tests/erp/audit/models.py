"""Who did what, kept by year."""

from django.db import models

from companies.models import Company


class AuditEvent(models.Model):
    """A row of a partitioned table, which Django cannot make itself: see migration 0001.

    The database's primary key is (occurred_at, id), as a partitioned table needs; the id alone is unique in practice.
    """

    company = models.ForeignKey(Company, models.PROTECT)
    occurred_at = models.DateTimeField()
    actor = models.CharField(max_length=150)
    action = models.CharField(max_length=50)
    object_type = models.CharField(max_length=50)
    object_id = models.BigIntegerField()
    detail = models.JSONField(default=dict)
    digest = models.BinaryField(max_length=32)

    class Meta:
        indexes = (models.Index(fields=["company", "occurred_at"], name="audit_company_time"),)

    def __str__(self) -> str:
        return f"{self.action} {self.object_type} {self.object_id}"
