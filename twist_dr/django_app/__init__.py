"""The protected application's code, asked and told through its manage.py; it is never imported into ours."""
