"""WSGI entry point: erp_site.wsgi:application, with the folder of manage.py in sys.path."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "erp_site.settings")

application = get_wsgi_application()
