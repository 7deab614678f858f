"""``make demo`` and ``make ui``: the sample ERP, backed up to two folders and an S3 endpoint, proven, restored after an accident, undone,
and taken back to the second before another one.

Everything lies in ``.demo``, but for the server's data when root starts it (see ``unprivileged.py``). Run again, it goes on with the same database, keys and history.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.catalog import Catalog, SealedBackup, VerificationRow
from twist_dr.errors import TwistDRError
from twist_dr.operations.table import OPERATIONS
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.tools import choose_tools, find_tools
from twist_dr.postgres.unprivileged import reachable_base, unprivileged
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.restore.plan import surroundings
from twist_dr.restore.settle import kept, remove_kept
from twist_dr.settings import Settings, load_settings
from twist_dr.system.lock import FileLocks
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import command
from twist_dr.watch.status.collect import collect
from twist_dr.watch.status.text import render_status
from twist_dr_tests.apps import application
from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.storage.servers import rclone_server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DEMO = ROOT / ".demo"
BUCKET = "erp-backups"
#: The command, as its script starts it. The one of the tests' site would need what only they install.
TWIST_DR = [sys.executable, "-m", "twist_dr"]

SETTINGS = f"""\
# Written by make demo: a complete twist-dr.yaml for the sample ERP.
application: erp
app_version: "1.4.1"
database:
  url: ${{ERP_DATABASE_URL}}
media:
  attachments: media
configuration:
  - {HERE}/erp/erp_site/settings.py
  - twist-dr.yaml
django:
  manage: [{sys.executable}, {HERE}/erp/manage.py]
  folder: {HERE}/erp
  environment: {{ERP_DATABASE_URL: "${{ERP_DATABASE_URL}}"}}
  database_variable: ERP_DATABASE_URL
storage_targets:
  office:
    type: local
    path: targets/office
    retention: {{daily: 7, weekly: 4, last: {{pre-restore: 3}}, wal: 7 days}}
  archive:
    type: local
    path: targets/archive
    compression: gzip
  cloud:
    type: s3
    bucket: {BUCKET}
    prefix: demo
    endpoint_url: ${{DEMO_S3_ENDPOINT}}
    access_key_id: ${{DEMO_S3_ACCESS_KEY}}
    secret_access_key: ${{DEMO_S3_SECRET_KEY}}
encryption:
  keyring: keyring.yaml
verification:
  key_tables: [companies_company, billing_invoice, ledger_ledgerentry]
restore:
  keep_replaced_for: 1 hour
  maintenance:
    file: maintenance
  # A restored copy must not mail customers a second time.
  after_restore_sql:
    - UPDATE outbox_outboxmessage SET sent_at = now() WHERE sent_at IS NULL
wal:
  source: receive
schedules:
  time_zone: UTC
work_dir: work
"""


#: Ten entries like the last ones.
_BOOK = """
    INSERT INTO ledger_ledgerentry (company_id, account_id, invoice_id, voucher, booked_on, text, debit, credit)
    SELECT company_id, account_id, invoice_id, voucher, booked_on, text, debit, credit
      FROM ledger_ledgerentry ORDER BY id DESC LIMIT 10
"""

NEXT = f"""\
What to do next
  make ui                     the same application in the web page: lineage, history, launchpad
  less {DEMO.relative_to(ROOT)}/twist-dr.yaml     the settings that it ran with
  README.md                   your own first verified backup, in five minutes
"""


@contextmanager
def sample_application(megabytes: int) -> Iterator[dict[str, str]]:
    """The ERP on a running PostgreSQL, an S3 endpoint and the settings; gives the environment that leads to all of it."""
    for folder in (DEMO, DEMO / "dagster", DEMO / "s3" / BUCKET, DEMO / "targets"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(FileLocks(DEMO, "demo").hold("A second demo"))
        tools = choose_tools(find_tools(), 18, server=True, purpose="run the demo on")
        server = stack.enter_context(
            PostgresServer(tools, DEMO / "postgres", settings={"summarize_wal": "on"}, keep=True)
        )
        url = server.url("erp")
        if not (DEMO / "media").exists():
            # The cluster may lie where its user can go, and outlive a checkout that somebody removed.
            with server.cluster().connect() as connection:
                connection.execute("DROP DATABASE IF EXISTS erp WITH (FORCE)")
        fixtures.create(url, DEMO / "media", megabytes=megabytes)
        endpoint = stack.enter_context(rclone_server(DEMO / "s3"))
        shutil.copyfile(ROOT / "dagster.yaml", DEMO / "dagster" / "dagster.yaml")
        (DEMO / "twist-dr.yaml").write_text(SETTINGS)
        if not (DEMO / "keyring.yaml").exists():
            key = new_key()
            save_keyring(Keyring(key.id, {key.id: key}, "new"), DEMO / "keyring.yaml")
        yield {
            "ERP_DATABASE_URL": url,
            "ERP_MEDIA": str(DEMO / "media"),
            "DEMO_S3_ENDPOINT": endpoint.endpoint,
            "DEMO_S3_ACCESS_KEY": endpoint.access_key,
            "DEMO_S3_SECRET_KEY": endpoint.secret_key,
            "TWIST_DR_CONFIG": str(DEMO / "twist-dr.yaml"),
            "DAGSTER_HOME": str(DEMO / "dagster"),
        }


@contextmanager
def resident(*arguments: str) -> Iterator[None]:
    """A ``twist-dr wal`` process that stays, ended by its process id."""
    command = [*TWIST_DR, "wal", *arguments]
    with (DEMO / f"wal-{arguments[0]}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=DEMO, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def launch(job: str, environment: Mapping[str, str], **told: str) -> float:
    """Run a job as somebody types it; returns its seconds. Ends the demo when it fails."""
    log = DEMO / f"{job}.log"
    words = [*(f"{name}={value}" for name, value in told.items()), *(["--yes"] if OPERATIONS[job].plan else [])]
    _, name = command(job).split()
    print(f"  $ twist-dr {shlex.join([name, *words])}", flush=True)
    begun = time.monotonic()
    with log.open("wb") as file:
        status = subprocess.run(
            [*TWIST_DR, name, *words], env={**os.environ, **environment}, stdout=file, stderr=file, cwd=DEMO
        ).returncode
    if status != 0:
        print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-25:]), file=sys.stderr)
        raise SystemExit(f"{job} failed with exit status {status}; the whole log is {log}")
    return time.monotonic() - begun


def summary(
    row: SealedBackup, verification: VerificationRow, settings: Settings, backup_seconds: float, verify_seconds: float
) -> str:
    """What a person wants to read."""
    manifest = row.manifest
    assert manifest.postgres is not None
    lines = [
        "",
        f"Backup {row.backup_id}",
        f"  PostgreSQL {manifest.postgres.version}, {sum(manifest.tables.values()):,} rows in {len(manifest.tables)} tables",
        "",
    ]
    lines.append(f"  {'artifact':<28}{'plain':>10}{'stored':>10}{'ratio':>8}   form")
    for artifact in manifest.artifacts:
        for form, stored in artifact.stored.items():
            ratio = artifact.size / stored.size if stored.size else 0
            lines.append(
                f"  {artifact.name:<28}{human_bytes(artifact.size):>10}{human_bytes(stored.size):>10}{ratio:>7.1f}x   {form}"
            )
    lines += ["", f"  {'storage target':<28}{'state':>10}{'stored':>10}{'took':>9}"]
    for copy in row.copies:
        took = human_seconds(copy.seconds) if copy.seconds is not None else "-"
        lines.append(
            f"  {copy.target:<28}{copy.state:>10}{human_bytes(copy.stored_bytes or 0):>10}{took:>9}   {copy.form}"
        )
    lines += [
        "",
        f"  {verification.state}: {verification.rows:,} rows in {verification.tables} tables and {verification.files} files compared,",
    ]
    lines.append(
        f"  restored from {verification.target} into a scratch PostgreSQL {verification.server_version} that is gone again"
    )
    seconds = {**manifest.durations, "restore": verification.restore_seconds or 0.0}
    lines += ["", "  seconds: " + ", ".join(f"{part} {spent:.2f}" for part, spent in seconds.items())]
    lines.append(f"  whole commands: backup_full {backup_seconds:.1f} s, verify_backup {verify_seconds:.1f} s")
    return "\n".join(lines)


def main() -> None:
    """Run the demo, or the web page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="serve the web page until interrupted")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--remove", action="store_true", help="remove the demo with all that it made")
    parser.add_argument("--megabytes", type=int, default=10, help="size of the sample database when it is made")
    options = parser.parse_args()
    if options.remove:
        remove()
        return
    print("starting PostgreSQL 18, the sample ERP and an S3 endpoint, all on loopback", flush=True)
    try:
        with sample_application(options.megabytes) as environment:
            os.environ.update(environment)
            with resident("receive"), resident("ship", "--follow"):
                if options.ui:
                    serve(options.port)
                else:
                    run_demo(environment)
    except TwistDRError as error:
        raise SystemExit(str(error)) from None


def remove() -> None:
    """Remove ``.demo``, and what lies elsewhere because root's server could not get there."""
    for folder in (DEMO / "postgres", DEMO / "work" / "scratch"):
        shutil.rmtree(reachable_base(folder, unprivileged()[0]), ignore_errors=True)
    shutil.rmtree(DEMO, ignore_errors=True)


def run_demo(environment: Mapping[str, str]) -> None:
    """Back up, verify, tell."""
    backup_seconds = launch("backup_full", environment)
    verify_seconds = launch("verify_backup", environment)
    settings = load_settings()
    catalog = Catalog(settings.catalog_url)
    row = catalog.latest(application=settings.application)
    if row is None or row.last_verification is None or row.last_verification.state != "verified":
        raise SystemExit(
            "The catalog knows no verified backup, though both jobs succeeded: this is a defect, please report it."
        )
    print(summary(row, row.last_verification, settings, backup_seconds, verify_seconds))
    print(accident_and_restore(environment, settings, catalog))
    print(accident_and_recovery(environment, settings, catalog))
    status = collect(application(settings, catalog=catalog), datetime.now(timezone.utc))
    print(f"What twist-dr status says after all that\n{textwrap.indent(render_status(status), '  ')}\n")
    print(NEXT)


def accident_and_restore(environment: Mapping[str, str], settings: Settings, catalog: Catalog) -> str:
    """Delete the ledger, restore it, and undo that; tells what was live at each step."""
    for each in kept(surroundings(settings)):
        if each.journal.keep_until is not None and each.journal.keep_until < datetime.now(timezone.utc):
            remove_kept(each.journal, surroundings(settings))
    told = [("before", _entries(settings))]
    with Cluster(settings.restore_url).connect() as connection:
        connection.execute("DELETE FROM ledger_ledgerentry")
    told.append(("somebody deletes the whole ledger", _entries(settings)))
    spent = launch("restore", environment, mode="replace", reason="somebody deleted the whole ledger")
    told.append((_told("restored", catalog, settings, spent), _entries(settings)))
    spent = launch("undo_restore", environment, reason="to show that it can be undone")
    told.append((_told("undone", catalog, settings, spent), _entries(settings)))
    spent = launch("undo_restore", environment, reason="the ledger is wanted back")
    told.append((_told("undone again", catalog, settings, spent), _entries(settings)))
    return "\n".join(["", f"  {'':<72}{'entries':>8}", *(f"  {what:<72}{count:>8}" for what, count in told), ""])


def accident_and_recovery(environment: Mapping[str, str], settings: Settings, catalog: Catalog) -> str:
    """Write on after a base backup, let a script go wrong, and recover to the moment before it."""
    launch("backup_base", environment)
    told = [("after a base backup", _entries(settings))]
    with Cluster(settings.restore_url).connect() as connection:
        # What no full backup has: it is only in the write-ahead log.
        connection.execute(_BOOK)
        [[before]] = query(connection, "SELECT clock_timestamp()")
        told.append(("ten more are booked; it is " + f"{before:%H:%M:%S.%f}"[:-3], _entries(settings)))
        connection.execute("DELETE FROM ledger_ledgerentry WHERE id % 2 = 0")
    told.append(("a script deletes every other one", _entries(settings)))
    spent = launch(
        "restore_to_time", environment, to=before.isoformat(), mode="replace",
        reason="a script deleted every other entry", pre_restore_backup="false",
    )  # fmt: skip
    told.append((_told(f"recovered to {before:%H:%M:%S.%f}"[:-3], catalog, settings, spent), _entries(settings)))
    return "\n".join([f"  {'':<72}{'entries':>8}", *(f"  {what:<72}{count:>8}" for what, count in told), ""])


def _told(what: str, catalog: Catalog, settings: Settings, spent: float) -> str:
    row = catalog.restores(settings.application, limit=1)[0]
    assert row.seconds_locked_out is not None
    return f"{what}: application locked out for {human_seconds(row.seconds_locked_out)} (whole command {spent:.1f} s)"


def _entries(settings: Settings) -> int:
    with Cluster(settings.restore_url).connect() as connection:
        return int(query(connection, "SELECT count(*) FROM ledger_ledgerentry")[0][0])


def serve(port: int) -> None:
    """The web page and the daemon, until Ctrl-C."""
    command = [
        str(Path(sys.executable).with_name("dagster")),
        "dev",
        "-w",
        str(ROOT / "workspace.yaml"),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    print(f"open http://127.0.0.1:{port} - end with Ctrl-C", flush=True)
    # A supervisor ends us with SIGTERM, a person with Ctrl-C; both stop the page first and the servers behind it after.
    # A shell's background job inherits SIGINT as ignored, and Dagster's own processes end each other by it.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.default_int_handler)
    page = subprocess.Popen(command, cwd=DEMO)
    try:
        page.wait()
    except KeyboardInterrupt:
        page.terminate()
        page.wait(60)


if __name__ == "__main__":
    main()
