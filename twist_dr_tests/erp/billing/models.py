"""Customers and invoices."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F

from companies.models import Company


class Customer(models.Model):
    """Someone who gets invoices."""

    company = models.ForeignKey(Company, models.PROTECT)
    number = models.IntegerField()
    name = models.CharField(max_length=200)
    street = models.CharField(max_length=200)
    postcode = models.CharField(max_length=10)
    city = models.CharField(max_length=100)
    email = models.EmailField()
    tags = ArrayField(models.TextField(), default=list)
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["company", "number"], name="customer_number_per_company"),)

    def __str__(self) -> str:
        return self.name


class Invoice(models.Model):
    """An invoice; its number is unique within the company."""

    company = models.ForeignKey(Company, models.PROTECT)
    customer = models.ForeignKey(Customer, models.PROTECT)
    number = models.CharField(max_length=20)
    issued_on = models.DateField()
    status = models.CharField(max_length=10, default="open")
    net = models.DecimalField(max_digits=14, decimal_places=2)
    tax = models.DecimalField(max_digits=14, decimal_places=2)
    gross = models.GeneratedField(
        expression=F("net") + F("tax"),
        output_field=models.DecimalField(max_digits=14, decimal_places=2),
        db_persist=True,
    )
    created_at = models.DateTimeField()
    due_date = models.DateField()
    currency = models.CharField(max_length=3, default="EUR", db_default="EUR")

    class Meta:
        constraints = (models.UniqueConstraint(fields=["company", "number"], name="invoice_number_per_company"),)

    def __str__(self) -> str:
        return self.number


class InvoiceLine(models.Model):
    """One position of an invoice."""

    company = models.ForeignKey(Company, models.PROTECT)
    invoice = models.ForeignKey(Invoice, models.CASCADE, related_name="lines")
    position = models.SmallIntegerField()
    description = models.TextField()
    quantity = models.DecimalField(max_digits=10, decimal_places=2)
    unit_price = models.DecimalField(max_digits=12, decimal_places=2)
    amount = models.GeneratedField(
        expression=F("quantity") * F("unit_price"),
        output_field=models.DecimalField(max_digits=14, decimal_places=2),
        db_persist=True,
    )

    class Meta:
        constraints = (models.UniqueConstraint(fields=["invoice", "position"], name="line_position_per_invoice"),)

    def __str__(self) -> str:
        return self.description
