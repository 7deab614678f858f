"""The application that follows the README: Wagtail from the package registry, with its own demo site, on a PostgreSQL server of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twist_dr.postgres.tools import choose_tools, find_tools
from twist_dr.postgres.unprivileged import reachable_base, unprivileged
from twist_dr_tests.servers import PostgresServer, free_port

#: Pinned, so that what fails one day is ours. Wagtail's tests bring the demo site and its pages along.
_PACKAGES = ("wagtail==8.0.1", "psycopg[binary]==3.3.9")
_LOCAL_SETTINGS = """\
import os
from urllib.parse import unquote, urlsplit

from .base import INSTALLED_APPS

_url = urlsplit(os.environ["DATABASE_URL"])
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": unquote(_url.path[1:]), "USER": unquote(_url.username),
    "PASSWORD": unquote(_url.password), "HOST": _url.hostname, "PORT": _url.port,
}}
# The project's own home page would take the place of the demo's.
INSTALLED_APPS = [*(app for app in INSTALLED_APPS if app != "home"), "wagtail.test.demosite"]
"""
#: The demo's rows name images and documents that nobody ships: real files for them, of different sizes.
_FILES = """\
import io, random
from django.core.files.base import ContentFile
from PIL import Image as Picture
from wagtail.documents.models import Document
from wagtail.images.models import Image
for number, image in enumerate(Image.objects.order_by("pk"), 1):
    picture = io.BytesIO()
    Picture.frombytes("RGB", (64 * number, 48), random.Random(number).randbytes(3 * 64 * number * 48)).save(picture, "PNG")
    image.file.save(f"picture-{number}.png", ContentFile(picture.getvalue()), save=False)
    image.width, image.height = 64 * number, 48
    image.save()
for number, document in enumerate(Document.objects.order_by("pk"), 1):
    document.file.save(f"paper-{number}.txt", ContentFile(b"line\\n" * 1000 * number))
print(Image.objects.count() + Document.objects.count())
"""


class WagtailSite:
    """A running site. ``database`` is owned by the role ``erp_owner``, which the site itself works as."""

    database = "erp"
    _password = "an owner@word"

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.folder = folder / "site"
        self.media = self.folder / "media"
        self.python = folder / "wagtail" / "bin" / "python"
        self.server = server
        self.port = free_port()
        self.environment = {"DATABASE_URL": server.url(self.database, "erp_owner", self._password)}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def make(self) -> None:
        """Install Wagtail, start a project, load the demo pages and write their files."""
        venv = self.python.parents[1]
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *_PACKAGES], check=True)
        self.folder.mkdir()
        subprocess.run([venv / "bin" / "wagtail", "start", "shop", self.folder], check=True, stdout=subprocess.DEVNULL)
        (self.folder / "shop" / "settings" / "local.py").write_text(_LOCAL_SETTINGS)
        template = self.folder / "shop" / "templates" / "demosite" / "home_page.html"
        template.parent.mkdir()
        template.write_text("<h1>{{ page.title }}</h1>")
        self.sql(f"CREATE ROLE erp_owner LOGIN PASSWORD '{self._password}'", "postgres")
        self.sql(f"CREATE DATABASE {self.database} OWNER erp_owner", "postgres")
        self.manage("migrate", "--verbosity=0")
        self.manage("loaddata", "--verbosity=0", "demosite.json")
        files = self.manage("shell", "--verbosity=0", "-c", _FILES)
        print(f"the demo site has {self.rows('wagtailcore_page')} pages, and {files.split()[-1]} files in {self.media}")

    def manage(self, *arguments: str) -> str:
        """``manage.py`` as the site's people call it. Raises ``CalledProcessError``."""
        environment = {"PATH": os.environ["PATH"], **self.environment}
        command = [self.python, "manage.py", *arguments]
        return subprocess.run(
            command, check=True, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True
        ).stdout

    def sql(self, statements: str, database: str | None = None) -> str:
        """What a superuser types in psql; returns what it says. Raises ``CalledProcessError`` at the first error."""
        command = [
            self.server.tools.program("psql"),
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--set=ON_ERROR_STOP=1",
        ]
        wanted = self.server.cluster(database or self.database).environment()
        environment = {name: value for name, value in {**os.environ, **wanted}.items() if value is not None}
        # A person's session begins with what the database says, not with what one of ours does.
        environment.pop("PGOPTIONS", None)
        done = subprocess.run(command, input=statements, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def rows(self, table: str) -> int:
        """Rows of a table in the live database."""
        return int(self.sql(f"SELECT count(*) FROM {table}"))

    @property
    def papers(self) -> list[Path]:
        """The documents among the media."""
        return list(self.media.glob("documents/*"))

    def let_in_replication(self, line: str) -> None:
        """Put a line into the server's pg_hba.conf and have it read."""
        with (self.server.base / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"{line}\n")
        self.sql("SELECT pg_reload_conf()")

    @contextmanager
    def served(self) -> Iterator[None]:
        """The site answers at :attr:`url` until this is left."""
        environment = {"PATH": os.environ["PATH"], **self.environment}
        command = [self.python, "manage.py", "runserver", "--noreload", f"127.0.0.1:{self.port}"]
        with (self.folder.parent / "site.log").open("w") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
            try:
                self._wait()
                yield
            finally:
                process.terminate()
                process.wait(30)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=30):
                    return
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


@contextmanager
def wagtail_site(folder: Path) -> Iterator[WagtailSite]:
    """A fresh server and site below ``folder``; the server is gone afterwards, the installed packages stay for the next time."""
    tools = choose_tools(find_tools(), 18, server=True, purpose="run the site on")
    # What a killed walk left: it never reached the end that removes it.
    shutil.rmtree(reachable_base(folder / "postgres", unprivileged()[0]), ignore_errors=True)
    with PostgresServer(tools, folder / "postgres", settings={"summarize_wal": "on"}) as server:
        site = WagtailSite(folder, server)
        site.make()
        with site.served():
            yield site
