"""Double-entry bookkeeping: the entries of one voucher add up to nothing."""

from django.db import models
from django.db.models import Q

from billing.models import Invoice
from companies.models import Company


class LedgerAccount(models.Model):
    """An account of the chart of accounts."""

    company = models.ForeignKey(Company, models.PROTECT)
    code = models.CharField(max_length=10)
    name = models.CharField(max_length=100)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["company", "code"], name="account_code_per_company"),)

    def __str__(self) -> str:
        return f"{self.code} {self.name}"


class LedgerEntry(models.Model):
    """One side of a booking."""

    company = models.ForeignKey(Company, models.PROTECT)
    account = models.ForeignKey(LedgerAccount, models.PROTECT)
    invoice = models.ForeignKey(Invoice, models.PROTECT, null=True)
    voucher = models.CharField(max_length=20)
    booked_on = models.DateField()
    text = models.CharField(max_length=200)
    debit = models.DecimalField(max_digits=14, decimal_places=2, default=0)
    credit = models.DecimalField(max_digits=14, decimal_places=2, default=0)

    class Meta:
        verbose_name_plural = "ledger entries"
        constraints = (
            models.CheckConstraint(
                condition=Q(debit__gte=0, credit__gte=0) & (Q(debit=0) | Q(credit=0)), name="one_side_only"
            ),
        )

    def __str__(self) -> str:
        return f"{self.voucher} {self.text}"
