"""Takes and serves the attached files."""

import hashlib

from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.http import FileResponse, Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.text import get_valid_filename
from django.views.decorators.http import require_GET, require_POST

from attachments.models import Attachment
from billing.models import Invoice


@require_POST
def attachments(request: HttpRequest) -> JsonResponse:
    """Keeps the body as a file: ?name=...&invoice=id; without an invoice it belongs to the company's first."""
    if request.company_id is None:
        return JsonResponse({"error": "log in, or name a company in X-Company"}, status=403)
    mine = Invoice.objects.filter(company_id=request.company_id).order_by("pk")
    try:
        name = get_valid_filename(request.GET["name"])
        invoice = mine.get(pk=request.GET["invoice"]) if "invoice" in request.GET else mine.first()
    except (ValueError, KeyError, SuspiciousFileOperation, Invoice.DoesNotExist):
        return JsonResponse({"error": "the attachment is not understood"}, status=400)
    if invoice is None:
        return JsonResponse({"error": "an attachment needs an invoice"}, status=400)
    # The file before its row: a row without its file must never be seen. A request that fails leaves a file without a row.
    file = default_storage.save(f"uploads/company-{request.company_id}/{name}", ContentFile(request.body))
    kept = Attachment.objects.create(
        company_id=request.company_id,
        invoice=invoice,
        file=file,
        content_type=request.content_type or "application/octet-stream",
        size=len(request.body),
        sha256=hashlib.sha256(request.body).digest(),
        uploaded_at=timezone.now(),
    )
    return JsonResponse({"id": kept.pk, "file": file, "size": kept.size}, status=201)


@require_GET
def attachment(request: HttpRequest, pk: int) -> HttpResponseBase:
    """The file of one attachment of the request's company."""
    if request.company_id is None:
        return JsonResponse({"error": "log in, or name a company in X-Company"}, status=403)
    # The company is asked for although row-level security does: the sample also runs as a superuser.
    found = Attachment.objects.filter(pk=pk, company_id=request.company_id).first()
    if found is None:
        raise Http404
    try:
        content = found.file.open("rb")
    except FileNotFoundError:
        return JsonResponse({"error": "the file of this attachment is missing"}, status=404)
    return FileResponse(content, content_type=found.content_type)
