"""Mails to be sent. A restored copy must never send them again."""

from django.db import models
from django.db.models import Q

from companies.models import Company


class OutboxMessage(models.Model):
    """A mail; it is sent when sent_at is set."""

    company = models.ForeignKey(Company, models.PROTECT)
    recipient = models.EmailField()
    subject = models.CharField(max_length=200)
    body = models.TextField()
    headers = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (models.Index(fields=["created_at"], condition=Q(sent_at=None), name="outbox_unsent"),)

    def __str__(self) -> str:
        return self.subject
