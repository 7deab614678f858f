"""twist-dr init --django: what an application's own settings say, wherever they have it from, is in the files that are written."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from twist_dr.cli.init import ask_django, write_initial_files
from twist_dr.django_app.settings import DatabaseAddress, FoundApplication
from twist_dr.errors import SettingsError
from twist_dr.settings import load_settings
from twist_dr_tests.conftest import make_site
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import ROOT

ERP = ROOT / "twist_dr_tests" / "erp"
MANAGE = shlex.join([sys.executable, "manage.py"])
DATABASE = '"ENGINE": "django.db.backends.postgresql", "USER": "shop_owner", "HOST": "db.example", "NAME": '

#: By the way in which an application is configured: its settings, and the variable that leads it elsewhere.
STYLES = {
    "written into the settings": (f"DATABASES = {{'default': {{{DATABASE}'shop'}}}}", None, None),
    "a file, which a variable goes before": (
        f"""
import configparser
parser = configparser.ConfigParser()
parser.read("shop.cfg")
def said(section, option):
    return os.environ.get("_".join((__name__.partition(".")[0], section, option)).upper()) or parser[section][option]
DATABASES = {{"default": {{{DATABASE}said("database", "name")}}}}
""",
        "SHOP_DATABASE_NAME",
        "shop",
    ),
    "a file of variables": (
        f"""
from urllib.parse import urlsplit
for line in open("variables"):
    os.environ.setdefault(*line.strip().split("=", 1))
DATABASES = {{"default": {{{DATABASE}urlsplit(os.environ["DATABASE_URL"]).path[1:]}}}}
""",
        "DATABASE_URL",
        "postgresql://shop_owner@db.example:5432/shop",
    ),
}


def project(folder: Path, settings: str) -> Path:
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "settings.py").write_text(f"import os\nSECRET_KEY = 'x'\nMEDIA_ROOT = '/srv/shop'\n{settings}\n")
    (folder / "shop.cfg").write_text("[database]\nname = shop\n")
    (folder / "variables").write_text("DATABASE_URL=postgresql://shop_owner:word@db.example/shop\n")
    (folder / "manage.py").write_text(
        "import os, sys\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n"
        "from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n"
    )
    return folder


@pytest.mark.parametrize("style", STYLES)
def test_an_application_is_found_however_it_is_configured(tmp_path: Path, style: str) -> None:
    text, variable, value = STYLES[style]
    found = ask_django(MANAGE, project(tmp_path / "app", text))
    assert (found.database.name, found.database.user, str(found.media)) == ("shop", "shop_owner", "/srv/shop")
    assert found.database_variable == variable
    assert found.environment == ({variable: value} if variable else {})
    assert any("no variable was found that leads" in note for note in found.notes) is (variable is None)
    assert any("has no password yet" in note for note in found.notes) is (variable == "DATABASE_URL")
    paths = write_initial_files(tmp_path / "dr", application="shop", found=found)
    document = yaml.safe_load(paths[0].read_text())
    assert document["media"] == {"uploads": "/srv/shop"}
    assert document["django"]["folder"] == str(tmp_path / "app")
    assert document["django"].get("database_variable") == variable


def test_a_database_that_is_no_postgresql_is_refused(tmp_path: Path) -> None:
    folder = project(tmp_path, "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'x'}}")
    with pytest.raises(SettingsError, match=r"no PostgreSQL \(django\.db\.backends\.sqlite3\); set the variables"):
        ask_django(MANAGE, folder)


def test_an_application_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no PostgreSQL \(django\.db\.backends\.dummy\)"):
        ask_django(MANAGE, project(tmp_path, "DATABASES = {}"))


def test_a_command_with_an_open_quote_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no command of a shell"):
        ask_django("python 'manage.py", tmp_path)


def test_an_application_without_a_role_gets_sql_that_runs_and_its_variables_stay_its_own(tmp_path: Path) -> None:
    address = DatabaseAddress(engine="django.db.backends.postgresql", name="shop", user="", host="::1", port="")
    taken = {"PYTHONPATH": "/srv/shop", "SHOP_KEY": "a'b\udcff"}
    found = FoundApplication(["python", "manage.py"], tmp_path, address, taken, None, None, [])
    paths = {path.name: path for path in write_initial_files(tmp_path / "dr", application="shop", found=found)}
    assert '""' not in paths["roles.sql"].read_text()
    text = paths["environment"].read_bytes().decode(errors="surrogateescape")
    assert "export APPLICATION_PYTHONPATH=/srv/shop\n" in text and "@[::1]:5432/shop" in text
    document = yaml.safe_load(paths["twist-dr.yaml"].read_text())
    assert document["django"]["environment"] == {
        "PYTHONPATH": "${APPLICATION_PYTHONPATH}",
        "SHOP_KEY": "${SHOP_KEY}",
    }


def test_files_in_a_bucket_and_other_databases_are_told(tmp_path: Path) -> None:
    folder = project(
        tmp_path,
        f"""
DATABASES = {{"default": {{{DATABASE}"shop"}}, "reports": {{{DATABASE}"reports"}}}}
STORAGES = {{"default": {{"BACKEND": "django.core.files.storage.InMemoryStorage"}},
             "staticfiles": {{"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}}}
""",
    )
    found = ask_django(MANAGE, folder)
    assert found.media is None
    told = " ".join(found.notes)
    assert "reports (reports)" in told and "kept by django.core.files.storage.memory" in told


def test_from_init_to_a_backup_with_nothing_written_by_hand(newest_server: PostgresServer, tmp_path: Path) -> None:
    """As a person does it: in the shell in which manage.py works."""
    site = make_site(newest_server, tmp_path / "site")
    application = {"ERP_DATABASE_URL": site.database_url, "ERP_MEDIA": str(site.media)}
    environment = {**os.environ, **application, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    folder = tmp_path / "dr"
    name = f"app_{abs(hash(tmp_path)):x}"[:30]
    done = subprocess.run(
        ["twist-dr", "init", name, "--folder", folder, "--django", "python manage.py"],
        cwd=ERP, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.rglob("*") if path.is_file())
    text = (folder / "twist-dr.yaml").read_text()
    assert site.database_url not in text, "a secret is in the environment, never in the settings"
    with newest_server.cluster().connect() as connection:
        connection.execute((folder / "roles.sql").read_bytes())
    try:
        script = ". ./environment && twist-dr doctor --json; dagster job execute -m twist_dr.definitions -j backup_full -c examples/backup_full.yaml"
        done = subprocess.run(
            ["sh", "-c", script], cwd=folder, env={"HOME": str(tmp_path), "PATH": environment["PATH"]}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        problems = {each["check"] for each in yaml.safe_load(done.stdout) if each["status"] == "problem"}
        assert problems <= {"isolation", "work_dir"}, done.stdout
        assert load_settings(folder / "twist-dr.yaml", _variables(folder)).django is not None
    finally:
        with newest_server.cluster().connect() as connection:
            for role in ("backup", "restorer"):
                connection.execute(f"DROP ROLE {name}_{role}".encode())


def _variables(folder: Path) -> dict[str, str]:
    lines = (folder / "environment").read_text().splitlines()
    exported = [shlex.split(line)[1] for line in lines if line.startswith("export ")]
    return dict(each.split("=", 1) for each in exported)
