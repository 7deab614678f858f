"""Serves the attached files."""

from django.http import FileResponse, Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_GET

from attachments.models import Attachment


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
