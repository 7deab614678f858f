"""Maintenance mode, and the company that a request may see."""

from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponseBase, JsonResponse

Handler = Callable[[HttpRequest], HttpResponseBase]
HEALTH = "/health"


def maintenance(get_response: Handler) -> Handler:
    """Answers 503 while the flag file exists, except for the health check, which must tell how far a restore is."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        flag = settings.MAINTENANCE_FILE
        if flag and request.path != HEALTH and Path(flag).exists():
            return JsonResponse({"error": "down for maintenance"}, status=503, headers={"Retry-After": "60"})
        return get_response(request)

    return handle


def tenant(get_response: Handler) -> Handler:
    """Runs each request in one transaction that sees one company."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        request.company_id = None
        if request.path == HEALTH:  # must be able to say that the database is gone
            return get_response(request)
        with transaction.atomic():
            company = _company_of(request)
            if company is not None:
                # Local to the transaction: a pooled connection never carries one company's view to the next request.
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('erp.company_id', %s, true)", [str(company)])
            request.company_id = company
            response = get_response(request)
            if response.status_code >= 400:  # Django turned the exception into a response: undo by hand
                transaction.set_rollback(True)
            return response

    return handle


def _company_of(request: HttpRequest) -> int | None:
    """The company of the logged in user; else what X-Company says, which only a sample may believe."""
    if request.user.is_authenticated:
        return request.user.company_id
    header = request.headers.get("X-Company", "")
    return int(header) if header.isascii() and header.isdigit() and len(header) < 19 else None
