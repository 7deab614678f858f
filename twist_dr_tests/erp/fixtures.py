"""Makes and runs the sample from a process that must not import Django, such as a test or the demo."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

CODE = Path(__file__).resolve().parent
MANAGE = CODE / "manage.py"


def environment(database_url: str, media: str | Path) -> dict[str, str]:
    """The environment of the sample, for a child process of any kind (manage.py, a WSGI server)."""
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {**inherited, "ERP_DATABASE_URL": database_url, "ERP_MEDIA": str(media)}


def manage(database_url: str, media: str | Path, *args: str, python: str = sys.executable, code: Path = CODE) -> str:
    """Runs a command of manage.py, of this release unless ``code`` is the folder of another, and returns what it printed; raises with its output when it fails."""
    done = subprocess.run(
        [python, str(code / "manage.py"), *args],
        env=environment(database_url, media),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"manage.py {' '.join(args)} failed with {done.returncode}:\n{done.stdout}")
    return done.stdout


def create_database(database_url: str) -> None:
    """Creates the database that the URL names, unless it is there."""
    name = str(conninfo_to_dict(database_url)["dbname"])
    # autocommit, because CREATE DATABASE does not run in a transaction.
    with psycopg.connect(make_conninfo(database_url, dbname="postgres"), autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            # template0 takes the encoding as asked, whatever the cluster's own is.
            create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name))
            connection.execute(create)


def create(database_url: str, media: str | Path, *, seed: int = 1, megabytes: int = 1, media_files: int = 25) -> str:
    """A database with tables, roles and sample data, and its media folder. Does no harm to one that is seeded."""
    create_database(database_url)
    size = ("--seed", str(seed), "--megabytes", str(megabytes), "--media-files", str(media_files))
    return manage(database_url, media, "make", *size)
