"""The attachments: rows and files, with the names and sizes that backups stumble over."""

import hashlib
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

from django.conf import settings

from attachments.models import Attachment
from erp_site.seeding import words
from erp_site.seeding.rows import Plan

KB = 1024
FIRST_UPLOAD = datetime(2024, 3, 1, 8, 0, tzinfo=timezone.utc)

# The awkward ones come first, so that even a handful of files holds them.
NAMES = (
    "leer.txt",
    "ein Byte.dat",
    "Lieferschein März 2024 (Größe XL).pdf",
    # 171 bytes: more than the 100 of an old tar header, less than the 255 of a file system.
    "Protokoll der Abnahmeprüfung " + "mit Anlagen und Übergabeverzeichnis " * 3 + "unterschrieben v2.pdf",
    "naïve café ☕ & 100 %.txt",
)
SIZES = (0, 1, 1024 * KB, 6 * KB, 777)


def write(plan: Plan, count: int) -> None:
    """Writes the files under the media folder, then their rows."""
    root = Path(settings.MEDIA_ROOT)
    company = plan.base["companies_company"] + 1
    for number in range(plan.companies):
        # An empty folder per company: a backup that knows only files would lose it.
        (root / f"company-{company + number}" / "Eingang (leer)").mkdir(parents=True, exist_ok=True)
    rows = [_attachment(plan, root, number) for number in range(count)]
    Attachment.objects.bulk_create(rows, batch_size=1000)


def _attachment(plan: Plan, root: Path, number: int) -> Attachment:
    random = Random(f"{plan.seed}:media:{number}")
    # Invoices go round the companies too, so the invoice of this position belongs to the same company.
    company = plan.base["companies_company"] + 1 + number % plan.companies
    whole_rounds = plan.invoices // plan.companies * plan.companies
    if number < len(NAMES):
        file, size = NAMES[number], SIZES[number]
    else:
        file = f"Beleg {number:05d} {random.choice(words.LAST)}.{random.choice(('pdf', 'txt', 'png'))}"
        size = random.randrange(200, 48 * KB)
    name = f"company-{company}/{2021 + number % 6}/{file}"
    content = _content(random, file, size)
    uploaded = FIRST_UPLOAD + timedelta(hours=number)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (uploaded.timestamp(), uploaded.timestamp()))
    return Attachment(
        id=plan.base["attachments_attachment"] + 1 + number,
        company_id=company,
        invoice_id=plan.base["billing_invoice"] + 1 + number % whole_rounds,
        file=name,
        content_type={"pdf": "application/pdf", "txt": "text/plain", "png": "image/png"}.get(
            file.rpartition(".")[2], "application/octet-stream"
        ),
        size=size,
        sha256=hashlib.sha256(content).digest(),
        uploaded_at=uploaded,
    )


def _content(random: Random, file: str, size: int) -> bytes:
    """Words for a text file, else bytes that do not compress, as those of a picture or a PDF."""
    if not file.endswith(".txt"):
        return random.randbytes(size)
    text = " ".join(random.choices(words.SENTENCE, k=size // 40 + 1)).encode()
    return text[:size].ljust(size)
