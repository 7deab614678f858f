"""twist-dr secrets: nothing of a value on the command line, the terminal or the audit log, and settings that are not whole yet keep nobody from it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from twist_dr.__main__ import main
from twist_dr.errors import SettingsError
from twist_dr_tests.site import Site

VALUE = "Xk29-plainly-secret"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "media").mkdir()
    site = Site(tmp_path, "postgresql://nobody@127.0.0.1:1/erp", tmp_path / "media")
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    return site


def typed(monkeypatch: pytest.MonkeyPatch, words: str, value: str = "") -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(value))
    return main(words.split())


def test_secrets_are_set_one_by_one_before_the_settings_can_be_read(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.set(
        database={"url": "postgresql://erp:${secret:DB}@db/erp"}, metrics={"textfile": "${secret:OTHER}", "bad": 1}
    )
    with pytest.raises(SettingsError):
        site.settings()
    assert typed(monkeypatch, "secrets set DB", f"{VALUE}\n") == 0
    assert typed(monkeypatch, "secrets set OTHER", "/somewhere/else") == 0
    site.set(metrics={})
    assert site.settings().database.url.get_secret_value() == f"postgresql://erp:{VALUE}@db/erp"
    capsys.readouterr()
    assert typed(monkeypatch, "secrets list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["DB", "secret"], ["OTHER", "secret"]]
    assert main(["keys", "new", "--id", "k2"]) == 0
    assert typed(monkeypatch, "secrets rotate") == 0
    assert "encrypted with k2 now: DB, OTHER" in capsys.readouterr().out
    assert typed(monkeypatch, "secrets remove OTHER") == 0
    said = capsys.readouterr()
    log = [(line.action, line.subject, line.result) for line in site.catalog().audit("erp")]
    assert [line for line in log if "secret" in line[0]] == [
        ("set secret", "DB", "done"), ("set secret", "OTHER", "done"),
        ("rotate secrets", "secrets.yaml", "done"), ("remove secret", "OTHER", "done"),
    ]  # fmt: skip
    assert VALUE not in said.out + said.err + repr(log)
    assert typed(monkeypatch, "secrets remove OTHER") == 1
    assert "has no secret OTHER; see those that are there: twist-dr secrets list" in capsys.readouterr().err


def test_where_the_catalogs_own_url_is_still_to_be_set_the_audit_line_waits_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.set(catalog={"url": "${secret:CATALOG}"})
    assert typed(monkeypatch, "secrets set CATALOG", f"sqlite:///{site.folder}/elsewhere.db") == 0
    assert "will be later" in capsys.readouterr().err
    assert typed(monkeypatch, "secrets set DB", VALUE) == 0
    assert [line.subject for line in site.catalog().audit("erp")] == ["CATALOG", "DB"]
    assert not (site.folder / "work" / "catalog.db").exists()


@pytest.mark.parametrize("value", ["", "\n"])
def test_nothing_is_no_secret(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    assert typed(monkeypatch, "secrets set DB", value) == 1
    assert "The value of DB was not said" in capsys.readouterr().err
    assert typed(monkeypatch, "secrets remove DB") == 1
    assert "There is no" in capsys.readouterr().err
    assert not (site.folder / "secrets.yaml").exists()


def test_a_value_among_the_arguments_is_refused_and_not_repeated(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, f"secrets set DB {VALUE}") == 1
    said = capsys.readouterr()
    assert "never an argument" in said.err and VALUE not in said.err + said.out
    assert not (site.folder / "secrets.yaml").exists()


def test_a_new_keyring_can_be_made_while_secrets_are_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both say to run this, so it must not ask for either."""
    site.set(database={"url": "${secret:DB}"})
    site.keyring_path.unlink()
    assert main(["keys", "new", "--id", "k9"]) == 0
    assert main(["keys", "list"]) == 0
    assert typed(monkeypatch, "secrets set DB", "postgresql://erp@db/erp") == 0
    assert site.settings().database.url.get_secret_value() == "postgresql://erp@db/erp"
