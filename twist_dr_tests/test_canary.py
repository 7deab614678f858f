"""Known secrets of every kind, every failing path; then everything that was kept, printed or among arguments is searched for them."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from twist_dr.repository.secrets_file import SecretsFile
from twist_dr_tests.conftest import make_backed_up_site
from twist_dr_tests.servers import PostgresServer, free_port
from twist_dr_tests.site import Outcome, Site
from twist_dr_tests.storage.servers import rclone_server
from twist_dr_tests.watch.alerts.mailbox import webhook

#: By where each stands. None is part of another one, or of a name.
SECRETS = {
    "database password": "D4ta/b@se:#?%41 pw",
    "wrong password": "Wr0ng+Passw&rd-77",
    "replication password": "R3plic@te:slash/x",
    "secret access key": "S3cr3tKey/with+slashes=x",
    "session in the environment": "AwsEnvSecret/0123456789abc",
    "django secret key": "dj4ngo-s3cret-(key)-x",
    "variable of the commands": "c0mmand-t0ken-9f31",
    "health token": "he4lth-t0ken-51c2",
    "channel password": "ch4nnel-pa55-77",
    "channel token": "Ch4nnelT0kenAbCdEf0123",
    "heartbeat path": "4d3c9f12-be47-4a7a-9d1e",
    "argument of a command": "4rgument-pa55-3",
    "value in the secrets file": "s3aled/V4lue+of:a=file",
}
#: What tells of its environment, and of its URL, before it fails.
_TALKATIVE = """\
import os, sys
print(dict(os.environ))
for name, value in os.environ.items():
    print(f"{name}={value}", file=sys.stderr)
raise ValueError("invalid port in " + " ".join(os.environ.values()))
"""


class Canaries:
    """A site full of secrets, and all that was seen of it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.printed: list[str] = []

    def ran(self, outcome: Outcome, status: int) -> str:
        self.printed.append(outcome.text)
        return outcome.expect(status).text

    def leaks(self) -> list[str]:
        """Where which secret was found."""
        secrets = {
            **SECRETS,
            **{f"key {key.id}": base64.b64encode(key.secret).decode() for key in self.site.keyring.keys.values()},
        }
        places = {str(path.relative_to(self.site.folder)): path.read_bytes() for path in self._kept()}
        places["printed"] = "\n".join(self.printed).encode()
        return [
            f"{what} in {place}: {content[max(0, content.find(form) - 60) : content.find(form) + 60]!r}"
            for place, content in places.items()
            for what, secret in secrets.items()
            for form in forms(secret)
            if form in content
        ]

    def _kept(self) -> Iterator[Path]:
        for path in self.site.folder.rglob("*"):
            if path.is_file() and path.name not in ("twist-dr.yaml", "keyring.yaml"):
                yield path


def forms(secret: str) -> set[bytes]:
    """A secret as it is, percent-encoded, in base64, and as JSON and Python write it."""
    raw = secret.encode()
    texts = {
        secret, quote(secret), quote(secret, safe=""), quote(secret, safe="").lower(), quote_plus(secret), json.dumps(secret)[1:-1],
        repr(secret)[1:-1], base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("="), raw.hex(),
    }  # fmt: skip
    return {text.encode() for text in texts}


@contextmanager
def arguments_watched() -> Iterator[set[bytes]]:
    """The arguments of every process of this machine while it lasts."""
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(process.read_bytes())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def _role(site: Site, name: str, password: str, rights: str) -> str:
    """A role of that password; its URL to the site's database."""
    quoted = password.replace("'", "''")
    site.query(f"DROP ROLE IF EXISTS {name}")
    site.query(f"CREATE ROLE {name} LOGIN {rights} PASSWORD '{quoted}'")
    server = site.database_url.rpartition("@")[2]
    return f"postgresql://{name}:{quote(password, safe='')}@{server}"


@pytest.fixture
def canaries(newest_server: PostgresServer, tmp_path: Path) -> Iterator[Canaries]:
    site = make_backed_up_site(newest_server, tmp_path)
    plain = site.database_url
    site.database_url = _role(site, "canary", SECRETS["database password"], "SUPERUSER")
    (tmp_path / "talkative.py").write_text(_TALKATIVE)
    (tmp_path / "buckets" / "vault").mkdir(parents=True)
    with rclone_server(tmp_path / "buckets") as store, webhook(500) as hook:
        site.variables = {
            "SITE_SECRET_KEY": SECRETS["secret access key"],
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRETS["session in the environment"],
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        secrets = SecretsFile(tmp_path / "secrets.yaml", "erp", str(site.keyring_path))
        secrets.set("SESSION", SECRETS["value in the secrets file"])
        hook_at = f"127.0.0.1:{hook.port}"
        site.set(
            storage_targets={
                **site.document["storage_targets"],
                "cloud": {
                    "type": "s3", "bucket": "vault", "endpoint_url": store.endpoint, "region": "us-east-1",
                    "access_key_id": "AKIAEXAMPLE", "secret_access_key": "${SITE_SECRET_KEY}",
                    "session_token": "${secret:SESSION}",
                },
            },
            django={
                "manage": [sys.executable, str(tmp_path / "talkative.py"), f"--password={SECRETS['argument of a command']}"],
                "folder": str(tmp_path),
                "environment": {"SECRET_KEY": SECRETS["django secret key"], "DATABASE_URL": "${SITE_DATABASE_URL}", "SHOP_DATABASE_NAME": "pretix"},
                "database_variable": "DATABASE_URL",
            },
            restore={
                "environment": {"API_TOKEN": SECRETS["variable of the commands"], "DATABASE_URL": "${SITE_DATABASE_URL}"},
                "validators": [[sys.executable, str(tmp_path / "talkative.py")]],
                "health": {
                    "url": f"http://{hook_at}/health?token={SECRETS['health token']}",
                    "timeout_seconds": 0.5,
                },
            },
            alerts={
                "channels": {"chat": {"url": f"json://robot:{SECRETS['channel password']}@{hook_at}/{SECRETS['channel token']}"}},
                "heartbeat": {"url": f"http://127.0.0.1:{free_port()}/{SECRETS['heartbeat path']}"},
            },
        )  # fmt: skip
        yield Canaries(site)
    site.database_url = plain


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(6)
@pytest.mark.timeout(600)
def test_whatever_fails_no_secret_is_kept_printed_or_an_argument(canaries: Canaries) -> None:
    site, ran = canaries.site, canaries.ran
    with arguments_watched() as arguments:
        # A target that refuses, a channel that fails.
        assert "cloud" in ran(site.backup(), 1)
        # A validator, and a manage.py, that quote all they know.
        refused = ran(site.replace(), 1)
        assert "python says no: python failed with exit status 1: ValueError: invalid port in" in refused
        # An application that is not healthy.
        del site.document["django"], site.document["restore"]["validators"]
        site.save()
        unhealthy = ran(site.replace(parts="database"), 1)
        assert "/health answers 500" in unhealthy
        away = ["recover", "--from-target", "s3://vault?endpoint_url=http://127.0.0.1:1", "--keyring", "keyring.yaml"]
        for command in (
            ["doctor"],
            ["status", "--json"],
            ["restores", "latest", "--json"],
            ["alerts", "--json"],
            ["audit", "--json"],
            away,
        ):
            canaries.printed.append(site.cli(*command).text)
        # A server that does not let us in, a catalog that is not there.
        where = site.database_url.rpartition("@")[2]
        site.database_url = f"postgresql://canary:{quote(SECRETS['wrong password'], safe='')}@{where}"
        replication = f"postgresql://canary:{quote(SECRETS['replication password'], safe='')}@{where}"
        site.set(wal={"replication_url": replication})
        assert "password authentication failed" in ran(site.backup(), 1)
        site.set(catalog={"url": replication.replace(where, "127.0.0.1:1/catalog")})
        for command in (["doctor"], ["status"], ["wal", "status"], ["wal", "ship"], ["list"]):
            canaries.printed.append(site.cli(*command).text)
    assert not canaries.leaks()
    told = [secret for secret in SECRETS.values() for each in arguments for form in forms(secret) if form in each]
    # Arguments of a command of the settings are what the settings say.
    assert set(told) <= {SECRETS["argument of a command"]}
    text = "\n".join(canaries.printed)
    assert "pretix" in text and "canary" in text and "vault" in text
