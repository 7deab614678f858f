"""Other releases of the sample, made from this one's code: to restore with code that is older or newer than the backup."""

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADDED = "billing.0005_credit_limit"

_MIGRATION = '''"""Customers may owe so much."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_currency")]
    operations = [
        migrations.AddField("customer", "credit_limit", models.DecimalField(max_digits=14, decimal_places=2, null=True))
    ]
'''


def newer_code(folder: Path) -> Path:
    """Release 1.5.0 in ``folder``, which must not exist: customers have a column more, and no invoice is written without it."""
    _copy(folder, version="1.5.0")
    (folder / "billing" / "migrations" / "0005_credit_limit.py").write_text(_MIGRATION)
    notes = "    notes = models.TextField(blank=True)\n"
    limit = "    credit_limit = models.DecimalField(max_digits=14, decimal_places=2, null=True)\n"
    _replace(folder / "billing" / "models.py", notes, notes + limit)
    return folder


def older_code(folder: Path) -> Path:
    """Release 1.4.0 in ``folder``, which must not exist: invoices have no currency (migration billing.0004_currency)."""
    _copy(folder, version="1.4.0")
    (folder / "billing" / "migrations" / "0004_currency.py").unlink()
    _replace(
        folder / "billing" / "models.py",
        '    currency = models.CharField(max_length=3, default="EUR", db_default="EUR")\n',
        "",
    )
    views = folder / "billing" / "views.py"
    _replace(views, '        "currency": invoice.currency,\n', "")
    _replace(views, '        currency="CHF" if company.country == "CH" else "EUR",\n', "")
    _replace(views, "{invoice.currency}", "EUR")
    return folder


def _copy(folder: Path, *, version: str) -> None:
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    _replace(folder / "erp_site" / "__init__.py", '"1.4.1"', f'"{version}"')


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if text.count(old) != 1:
        raise AssertionError(f"{file} does not hold once: {old!r}")
    file.write_text(text.replace(old, new))
