"""The application's own code, asked and told through its manage.py."""
