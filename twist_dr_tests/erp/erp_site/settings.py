"""Settings, all taken from the environment, so that a restored copy starts with nothing but variables."""

import os
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

BASE_DIR = Path(__file__).resolve().parent.parent


def _database(url: str) -> dict[str, Any]:
    """Django's form of a libpq URL. What Django has no name for (sslmode, ...) goes to psycopg unchanged."""
    # A health check must answer when the server does not; psycopg would wait for minutes.
    parts: dict[str, Any] = {"connect_timeout": "5", **conninfo_to_dict(url)}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", "") or "",
        "USER": parts.pop("user", "") or "",
        "PASSWORD": parts.pop("password", "") or "",
        "HOST": parts.pop("host", "") or "",
        "PORT": str(parts.pop("port", "") or ""),
        "CONN_MAX_AGE": int(os.environ.get("ERP_CONN_MAX_AGE", "0")),
        # A kept connection that the server has ended in the meantime is not the next request's trouble.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": parts,
    }


DATABASES = {"default": _database(os.environ.get("ERP_DATABASE_URL", "postgresql:///erp"))}
MEDIA_ROOT = os.environ.get("ERP_MEDIA", str(BASE_DIR / "media"))
SECRET_KEY = os.environ.get("ERP_SECRET_KEY", "for-the-sample-only-never-use-this-key-for-anything-real")
MAINTENANCE_FILE = os.environ.get("ERP_MAINTENANCE_FILE", "")

DEBUG = False
ALLOWED_HOSTS = os.environ.get("ERP_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.postgres",
    "erp_site",
    "companies",
    "billing",
    "ledger",
    "attachments",
    "outbox",
    "audit",
]
AUTH_USER_MODEL = "companies.User"

MIDDLEWARE = [
    "erp_site.middleware.maintenance",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "erp_site.middleware.tenant",
]
ROOT_URLCONF = "erp_site.urls"
WSGI_APPLICATION = "erp_site.wsgi.application"

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False

LOGGING = {
    # Django's own default prints nothing while DEBUG is off; the cause of an error belongs on stderr.
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
