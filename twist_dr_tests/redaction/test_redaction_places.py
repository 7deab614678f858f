"""Each place that sentences leave us from tells no secret, and of an address that was written wrongly no piece."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest

from twist_dr.__main__ import main
from twist_dr.catalog import AttemptRow, Catalog, CatalogUnavailable
from twist_dr.catalog.location import parse_location
from twist_dr.errors import DatabaseError, SettingsError
from twist_dr.operations.table import STATUS
from twist_dr.orchestrator.around import APPLICATION, operation
from twist_dr.postgres.cluster import Cluster
from twist_dr.redaction import forget, keep_secret, server_of
from twist_dr.restore.hooks import Health
from twist_dr.settings import Settings, parse_settings
from twist_dr.system.events import Begun, Ended
from twist_dr.system.progress import Report
from twist_dr.watch import audit
from twist_dr.watch.alerts.heartbeat import beat
from twist_dr.watch.runs import listeners
from twist_dr_tests.apps import application
from twist_dr_tests.servers import free_port
from twist_dr_tests.watch.alerts.mailbox import webhook

SECRET = "Tr0ub4dor&3+x"


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    forget()
    yield
    forget()


def read(folder: Path, more: str = "", target: str = "{type: local, path: office}") -> Settings:
    text = f"""
application: erp
database: {{url: "postgresql://keeper:{SECRET}@127.0.0.1:{free_port()}/pretix"}}
storage_targets: {{office: {target}}}
encryption: {{keyring: keyring.yaml}}
work_dir: work
{more}
"""
    return parse_settings(text, folder / "twist-dr.yaml", {})


def kept(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_an_alert_names_the_database_although_a_variable_of_the_application_does(tmp_path: Path) -> None:
    with webhook() as hook:
        settings = read(
            tmp_path,
            f"""
alerts: {{channels: {{chat: {{url: "{hook.url}"}}}}}}
django: {{manage: [python, manage.py], folder: ., environment: {{PRETIX_DATABASE_NAME: pretix, PRETIX_DATABASE_USER: keeper}}}}
""",
        )
        cluster = Cluster(settings.database.url.get_secret_value())
        with pytest.raises(DatabaseError) as error:
            cluster.connect()
        run = AttemptRow("r1", "erp", "backup_full", None, None, "someone", datetime.now(timezone.utc))
        report = Report(*listeners(application(settings), run))
        report.emit(Begun("backup_full"))
        report.emit(Ended("backup_full", "failed", step="full_backup", error=f"{error.value} It tried {SECRET}."))
        (call,) = hook.calls
    assert "Cannot connect to pretix at 127.0.0.1:" in call.json["message"]
    assert "It tried ***." in call.json["message"]
    assert SECRET.encode() not in kept(tmp_path / "work")


def test_a_catalog_whose_password_is_its_name_is_told_by_its_name() -> None:
    catalog = Catalog(f"postgresql://index:index@127.0.0.1:{free_port()}/index")
    with pytest.raises(CatalogUnavailable, match=r"The catalog index at 127\.0\.0\.1:\d+ does not answer") as error:
        catalog.latest("erp")
    assert "***" not in str(error.value)


@pytest.mark.promise(6)
@pytest.mark.parametrize("password", ["p@ss/x1", "p@s?x=y1", "a/b@c:9"])
def test_a_catalog_url_with_a_bare_at_in_its_password_is_refused_without_a_piece(password: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_location(f"postgresql://index:{password}@db.example/catalog")
    assert "catalog.url" in str(error.value)
    assert not set(re.split(r"[/@?:=]", password)) & set(re.findall(r"\w+", str(error.value)))


@pytest.mark.promise(6)
@pytest.mark.parametrize(
    ("section", "place"),
    [
        ("restore: {health: {url: 'http://probe:pa/ss@shop.example/health'}}", "restore.health.url"),
        ("restore: {health: {url: 'http://probe:pass@shop.example/health'}}", "restore.health.url"),
        ("alerts: {heartbeat: {url: 'https://pa/ss@hc.example/x'}}", "alerts.heartbeat.url"),
        ("alerts: {dagster_url: 'https://me:pa:ss@dagster.example'}", "alerts.dagster_url"),
    ],
)
def test_a_web_address_that_may_be_misread_is_refused_without_a_piece(section: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        read(tmp_path, section)
    assert f"{place}: expected http" in str(error.value) and "found a value that is not shown" in str(error.value)
    assert "pa" not in str(error.value).partition(place)[2].replace("path", "").replace("password", "")


def test_keys_in_an_endpoint_are_refused_without_a_piece_of_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        read(tmp_path, target="{type: s3, bucket: vault, endpoint_url: 'http://AKIA:s3cr/et@store.example'}")
    assert "storage_targets.office.endpoint_url: expected http://host:port/path, without user" in str(error.value)
    assert "s3cr" not in str(error.value) and "AKIA" not in str(error.value)


@pytest.mark.promise(6)
def test_a_health_check_is_told_without_its_token_and_a_misread_address_without_a_piece() -> None:
    port = free_port()
    complaint = Health(url=f"http://127.0.0.1:{port}/health?ticket={SECRET}").probe()
    assert complaint is not None and complaint.startswith(f"http://127.0.0.1:{port}/health does not answer (")
    assert SECRET not in complaint and "ticket" not in complaint
    with webhook(503) as hook:
        assert Health(url=f"{hook.http_url}?t=x1").probe() == f"{hook.http_url} answers 503"
    for password in ("pa/ss", "7/ss", "p@s/s", "pa#ss"):
        told = Health(url=f"http://probe:{password}@shop.example/health").probe()
        assert told is not None and not {"pa", "ss", "7", "probe", "p@s"} & set(told.replace("'", " ").split()), told


@pytest.mark.promise(6)
def test_a_heartbeat_and_a_channel_that_are_misread_name_no_piece_as_their_server() -> None:
    for url in ("https://pa/ss@hc.example/x", "https://robot:7/ss@hc.example/x"):
        said = beat(url, 1)
        assert (
            said is not None
            and "correct alerts.heartbeat.url" in said
            and "server pa" not in said
            and "robot" not in said
        )
    assert server_of("json://robot:p@ss/w@chat.example/x") is None
    assert server_of("mailtos://robot:pw@mail.example/ops@example.com") == "mail.example"


@pytest.mark.promise(6)
def test_of_an_error_that_nobody_expected_dagster_keeps_no_secret(tmp_path: Path) -> None:
    settings = read(tmp_path)
    instance = dg.DagsterInstance.ephemeral()

    @dg.op(required_resource_keys={APPLICATION})
    def breaks(context: dg.OpExecutionContext) -> None:
        with operation(context, STATUS):
            try:
                raise ValueError(f"invalid port: {SECRET}")
            except ValueError as error:
                raise RuntimeError("the library gave up") from error

    @dg.job
    def job() -> None:
        breaks()

    resources = {APPLICATION: application(settings)}
    result = job.execute_in_process(instance=instance, resources=resources, raise_on_error=False)
    assert not result.success
    events = "\n".join(str(each) for each in instance.all_logs(result.run_id))
    assert "invalid port: ***" in events and "the library gave up" in events
    assert SECRET not in events
    assert SECRET.encode() not in kept(tmp_path / "work")


def test_a_defect_is_told_on_the_terminal_without_the_secret_that_it_quotes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORE_SECRET", SECRET)

    def defect(*ignored: object) -> None:
        print(f"asking {SECRET}")
        raise ValueError(f"cannot read {SECRET}")

    monkeypatch.setattr("twist_dr.cli.init.write_initial_files", lambda *_, **__: defect())
    assert main(["init", "erp"]) == 1
    out, err = capfd.readouterr()
    assert out == "asking ***\n" and err.endswith("ValueError: cannot read ***\n") and SECRET not in err
    with pytest.raises(SystemExit):
        main(["hold", f"--no-such={SECRET}"])
    assert SECRET not in "".join(capfd.readouterr())


def test_the_audit_log_keeps_no_secret_in_its_spool_either(tmp_path: Path) -> None:
    settings = read(tmp_path)
    keep_secret(SECRET)
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "work" / "catalog.db").write_bytes(b"this is no database" * 1000)
    audit.record(
        application(settings), action="run", subject="backup_full", result=f"failed: {SECRET}",
        details={"tried": [SECRET]},
    )  # fmt: skip
    assert b"failed: ***" in kept(tmp_path / "work") and SECRET.encode() not in kept(tmp_path / "work")
