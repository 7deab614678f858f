"""Everything a fresh database needs, in one process, because starting Django costs more than the work."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from erp_site.management.commands import seed


class Command(BaseCommand):
    """migrate, setup_roles and seed, one after the other."""

    help = "Migrate, set up the roles and seed; takes the options of seed."

    def add_arguments(self, parser: CommandParser) -> None:
        seed.Command().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0, stdout=self.stdout)
        call_command("setup_roles", stdout=self.stdout)
        names = ("seed", "megabytes", "companies", "media_files", "more")
        call_command("seed", stdout=self.stdout, **{name: options[name] for name in names})
