"""Is the application fit to work: the database answers, and its tables are those the code expects."""

from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, JsonResponse

from erp_site import __version__


def health(request: HttpRequest) -> JsonResponse:
    """200 when all is well, else 503. Says which migrations are pending, or unknown to this (older) code."""
    answer: dict[str, object] = {"version": __version__, "database": False, "migrations": False}
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        answer["database"] = True
        loader = MigrationLoader(connection)
    except DatabaseError:  # the details stay out of an answer that anybody can read
        return JsonResponse({**answer, "status": "failed"}, status=503)
    applied, known = set(loader.applied_migrations), set(loader.disk_migrations)
    answer["pending"] = sorted(".".join(name) for name in known - applied)
    answer["unknown"] = sorted(".".join(name) for name in applied - known)
    answer["migrations"] = applied == known
    return JsonResponse(
        {**answer, "status": "ok" if applied == known else "failed"}, status=200 if applied == known else 503
    )
