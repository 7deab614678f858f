"""Sample data: the same rows and files for the same seed and size."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction

from companies.models import Company
from erp_site.seeding import media, rows


class Command(BaseCommand):
    """Fills the database to a given size and writes the media files."""

    help = "Fill the database with sample data, deterministic by seed and size."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--megabytes", type=int, default=10, help="growth of the database on disk, 1 to 1024")
        parser.add_argument("--companies", type=int, default=4)
        parser.add_argument("--media-files", type=int, default=25)
        parser.add_argument("--more", action="store_true", help="add further companies to a seeded database")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["megabytes"] <= 1024:
            raise CommandError("--megabytes must be from 1 to 1024")
        if not 1 <= options["companies"] <= 100:
            raise CommandError("--companies must be from 1 to 100")
        if options["media_files"] < 0:
            raise CommandError("--media-files must not be negative")
        with transaction.atomic(), connection.cursor() as cursor:
            # Row-level security is forced on the owner too, and the bulk load switches triggers off.
            cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            if not cursor.fetchone()[0]:
                raise CommandError("seed needs a superuser connection")
            # Two seeds at once would take the same ids.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('erp seed'))")
            if Company.objects.exists() and not options["more"]:
                self.stdout.write("already seeded")
                return
            plan = rows.plan(cursor, options["seed"], options["megabytes"], options["companies"])
            rows.insert(cursor, plan)
            # Before the commit: a row without its file must never be seen.
            media.write(plan, options["media_files"])
            rows.finish(cursor)
        self.stdout.write(
            f"seeded {plan.companies} companies, {plan.invoices} invoices, {options['media_files']} media files"
        )
