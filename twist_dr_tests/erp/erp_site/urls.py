"""All addresses of the sample."""

from django.urls import path

from attachments.views import attachment, attachments
from billing.views import invoices, lines
from companies.views import login
from erp_site.health import health

urlpatterns = [
    path("health", health),
    path("login", login),
    path("invoices", invoices),
    path("lines", lines),
    path("attachments", attachments),
    path("attachments/<int:pk>", attachment),
]
