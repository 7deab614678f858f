"""The tenants and their users."""

from django.contrib.auth.models import AbstractUser
from django.db import models


class Company(models.Model):
    """A tenant. Every tenant table carries its id, and row-level security compares it."""

    name = models.CharField(max_length=200)
    slug = models.SlugField(unique=True)
    country = models.CharField(max_length=2)
    vat_id = models.CharField(max_length=20)
    iban = models.CharField(max_length=34)
    logo = models.BinaryField(null=True)
    created_at = models.DateTimeField()
    # A counter here, not a sequence: invoice numbers have no gaps, and after a restore none is given out twice.
    last_invoice_number = models.BigIntegerField(default=0)
    preferences = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name


class User(AbstractUser):
    """A person who logs in. Not under row-level security: the company is only known after the login."""

    company = models.ForeignKey(Company, models.PROTECT, null=True, related_name="users")
