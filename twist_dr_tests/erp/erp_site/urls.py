"""All addresses of the sample."""

from django.urls import path

from attachments.views import attachment
from billing.views import invoices
from companies.views import login
from erp_site.health import health

urlpatterns = [
    path("health", health),
    path("login", login),
    path("invoices", invoices),
    path("attachments/<int:pk>", attachment),
]
