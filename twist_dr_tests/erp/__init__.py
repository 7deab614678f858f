"""The sample ERP: a small Django application of the kind twist-dr protects.

It is run as `python twist_dr_tests/erp/manage.py <command>` from any folder, or as WSGI (`erp_site.wsgi`, with this
folder in sys.path; `serve.py` is a server for it), and is told everything by its environment:

ERP_DATABASE_URL      postgresql://user:password@host:port/database, or any other form libpq takes
ERP_MEDIA             the media folder
ERP_SECRET_KEY        Django's secret key; the default is for the sample only
ERP_ALLOWED_HOSTS     host names, separated by commas; only the local ones by default
ERP_CONN_MAX_AGE      for how many seconds a worker keeps its connection to the database; 0, the default, is for one request
ERP_MAINTENANCE_FILE  while this file exists, every view but /health answers 503
ERP_WEB_PASSWORD      the password that `setup_roles` gives to the role erp_web

Commands beside Django's own: setup_roles, seed, and make, which is migrate, setup_roles and seed in one.
Tests and the demo use `twist_dr_tests.erp.fixtures`, which imports no Django, and `releases` for older and
newer code.
"""
