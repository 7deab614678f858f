"""Lists and writes invoices."""

import hashlib
import json
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from audit.models import AuditEvent
from billing.models import Customer, Invoice, InvoiceLine
from companies.models import Company
from ledger.models import LedgerAccount, LedgerEntry
from outbox.models import OutboxMessage

SHOWN = 100
DEFAULT_LINES = [{"description": "consulting hour", "quantity": "1", "unit_price": "120.00"}]
CENT = Decimal("0.01")


@require_http_methods(["GET", "POST"])
def invoices(request: HttpRequest) -> JsonResponse:
    """GET: the count and the newest invoices of the company. POST: writes one, with all that belongs to it."""
    if request.company_id is None:
        return JsonResponse({"error": "log in, or name a company in X-Company"}, status=403)
    if request.method == "POST":
        return _create(request)
    # The company is asked for although row-level security does: the sample also runs as a superuser.
    mine = Invoice.objects.filter(company_id=request.company_id)
    newest = [_shown(invoice) for invoice in mine.order_by("-id")[:SHOWN]]
    return JsonResponse({"company": request.company_id, "count": mine.count(), "invoices": newest})


@require_GET
def lines(request: HttpRequest) -> JsonResponse:
    """All lines of the company's invoices whose description contains ?text=..., the oldest first."""
    if request.company_id is None:
        return JsonResponse({"error": "log in, or name a company in X-Company"}, status=403)
    found = InvoiceLine.objects.filter(
        company_id=request.company_id, description__contains=request.GET.get("text", "")
    ).order_by("pk")
    return JsonResponse({"lines": list(found.values("invoice_id", "description", "amount"))})


def _shown(invoice: Invoice) -> dict[str, Any]:
    return {
        "id": invoice.pk,
        "number": invoice.number,
        "issued_on": invoice.issued_on,
        "due_date": invoice.due_date,
        "status": invoice.status,
        "gross": invoice.gross,
        "currency": invoice.currency,
    }


def _create(request: HttpRequest) -> JsonResponse:
    """Takes {"customer": id, "lines": [{"description", "quantity", "unit_price"}]}; both may be left out."""
    company_id = request.company_id
    customers = Customer.objects.filter(company_id=company_id)
    try:
        body = json.loads(request.body or b"{}")
        customer = customers.get(pk=body["customer"]) if "customer" in body else customers.order_by("pk").first()
        lines = [
            InvoiceLine(
                company_id=company_id,
                position=position,
                description=str(line["description"]),
                quantity=Decimal(line["quantity"]).quantize(CENT),
                unit_price=Decimal(line["unit_price"]).quantize(CENT),
            )
            for position, line in enumerate(body.get("lines", DEFAULT_LINES), 1)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation, Customer.DoesNotExist):
        return JsonResponse({"error": "the invoice is not understood"}, status=400)
    net = sum((line.quantity * line.unit_price).quantize(CENT) for line in lines)
    if customer is None or not lines or net < 0:
        return JsonResponse({"error": "an invoice needs a customer and lines"}, status=400)

    # The lock on the company's row makes the numbers gapless: who waits here sees the number of the one before.
    company = Company.objects.select_for_update().get(pk=company_id)
    company.last_invoice_number += 1
    company.save(update_fields=["last_invoice_number"])
    now = timezone.now()
    invoice = Invoice.objects.create(
        company=company,
        customer=customer,
        number=f"R{company.last_invoice_number:07d}",
        issued_on=now.date(),
        due_date=now.date() + timedelta(days=14),
        net=net,
        tax=(net * Decimal("0.19")).quantize(CENT),
        currency="CHF" if company.country == "CH" else "EUR",
        created_at=now,
    )
    invoice.refresh_from_db()  # for the sum that the database generates
    for line in lines:
        line.invoice = invoice
    InvoiceLine.objects.bulk_create(lines)
    _book(invoice)
    OutboxMessage.objects.create(
        company=company,
        recipient=customer.email,
        subject=f"Rechnung {invoice.number}",
        body=f"Guten Tag {customer.name},\n\nbitte überweisen Sie {invoice.gross} {invoice.currency}.",
        created_at=now,
    )
    AuditEvent.objects.create(
        company=company,
        occurred_at=now,
        actor=request.user.get_username() or "api",
        action="invoice.created",
        object_type="invoice",
        object_id=invoice.pk,
        detail={"number": invoice.number},
        digest=hashlib.sha256(invoice.number.encode()).digest(),
    )
    return JsonResponse(_shown(invoice), status=201)


def _book(invoice: Invoice) -> None:
    """Receivable against revenue and tax."""
    accounts = {account.code: account for account in LedgerAccount.objects.filter(company_id=invoice.company_id)}
    sides = (("1400", invoice.gross, 0), ("8400", 0, invoice.net), ("1776", 0, invoice.tax))
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            company_id=invoice.company_id,
            account=accounts[code],
            invoice=invoice,
            voucher=f"V{invoice.number}",
            booked_on=invoice.issued_on,
            text=f"{accounts[code].name} {invoice.number}",
            debit=debit,
            credit=credit,
        )
        for code, debit, credit in sides
    )
