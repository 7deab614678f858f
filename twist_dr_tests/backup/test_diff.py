"""twist-dr diff: two backups compared, by manifests and, where asked for, by the names of their files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from twist_dr.backup.diff import compare, render
from twist_dr.repository.archive import archive_configuration
from twist_dr.repository.manifest import Artifact, Manifest
from twist_dr_tests.catalog.examples import manifest
from twist_dr_tests.site import Site


def test_two_backups_of_a_real_application(site: Site) -> None:
    site.backup().expect(0)
    first = site.latest().backup_id
    site.query("CREATE TABLE extra (id int); INSERT INTO extra VALUES (1), (2)")
    site.query('ALTER TABLE billing_invoice ADD COLUMN "odd\nname" numeric(5,2) NOT NULL DEFAULT 1')
    files = sorted(path for path in site.media.rglob("*") if path.is_file())
    files[0].write_bytes(b"other bytes")
    gone = files[1].relative_to(site.media)
    files[1].unlink()
    (site.media / "new\nfile.txt").write_text("new")
    site.backup().expect(0)
    second = site.latest().backup_id

    text = site.cli("diff", first, "latest", "--files").expect(0).text
    assert text.startswith(f"from {first} to {second}")
    assert "public.extra" in text and "added" in text
    assert "1 added, 1 removed, 1 changed" in text
    assert "+ attachments/new\\nfile.txt" in text
    assert "schema: 2 came, 0 went, 0 changed" in text and "\n  + table public.extra\n" in text
    assert "\n  + column public.billing_invoice.odd\\nname: numeric(5,2) DEFAULT 1 NOT NULL\n" in text
    document = json.loads(site.cli("diff", first, second, "--json", "--files").expect(0).text)
    assert {(each["what"], each["kind"], each["name"], each["after"]) for each in document["schema"]} == {
        ("came", "table", "public.extra", None),
        ("came", "column", "public.billing_invoice.odd\nname", "numeric(5,2) DEFAULT 1 NOT NULL"),
    }
    assert document["tables"] == [{"name": "public.extra", "before": None, "after": 2}]
    assert document["files"]["media"]["removed"] == [f"attachments/{gone}"]
    assert document["same"] is False

    # The live database is as it was, but for what is done to it now.
    assert "live: nothing differs" in site.cli("diff", second, "live").expect(0).text
    site.query("DROP TABLE extra; CREATE INDEX late ON billing_invoice (id)")
    document = json.loads(site.cli("diff", "latest", "live", "--json").expect(0).text)
    assert {(each["what"], each["kind"], each["name"]) for each in document["schema"]} == {
        ("went", "table", "public.extra"),
        ("came", "index", "public.late"),
    }
    assert document["tables"] == [{"name": "public.extra", "before": 2, "after": None}]
    url, site.database_url = site.database_url, "postgresql://nobody@127.0.0.1:1/erp"
    assert "the live database could not be compared: " in site.cli("diff", second, "live").expect(0).text
    site.database_url = url

    # What another target holds is as good; without any, it is said.
    shutil.rmtree(site.folder / "targets" / "office")
    site.cli("diff", first, second, "--files").expect(0)
    shutil.rmtree(site.folder / "targets" / "archive")
    assert "media.files.jsonl" in site.cli("diff", first, second, "--files").expect(1).text
    lost = site.cli("diff", first, second).expect(0).text
    assert "the schemas could not be compared: No storage target has a good copy of" in lost
    assert "nothing differs" in site.cli("diff", first, first).expect(0).text
    assert "twist-dr list" in site.cli("diff", first, "1999").expect(1).text


def test_what_manifests_tell() -> None:
    before = manifest(
        1,
        migrations={"ledger": ["0001"], "old": ["0001"]},
        tables={"public.a": 5, "public.b": 1, "public.c": 9},
        files={"media": 2},
    )
    after = manifest(
        2, migrations={"ledger": ["0001", "0002"]}, tables={"public.a": 3, "public.c": 9, "public.d": 4}, files={"media": 5},
        db_schema_version="other", app_version="3.3",
    )  # fmt: skip
    found = compare(before, after)
    assert (found.migrations_added, found.migrations_removed) == (("ledger.0002",), ("old.0001",))
    assert [(each.name, each.before, each.after) for each in found.tables] == [
        ("public.a", 5, 3),
        ("public.b", 1, None),
        ("public.d", None, 4),
    ]
    assert found.same_tables == 1
    assert {each.name: (each.before, each.after) for each in found.facts} == {
        "schema version": ("0123456789ab", "other"),
        "application version": ("3.2", "3.3"),
    }
    assert [(each.name, each.before, each.after) for each in found.file_counts] == [("media", 2, 5)]
    assert not found.same and compare(before, before).same


def configured(path: Path, text: str) -> Manifest:
    """A backup of one configuration file."""
    path.write_text(text)
    made = {"configuration.tar": bytearray(), "configuration.files.jsonl": bytearray()}
    archive_configuration([str(path)], *(each.extend for each in made.values()))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    return manifest(
        artifacts=[
            Artifact(name=name, part="configuration", size=len(data), sha256=digests[name], stored={})
            for name, data in made.items()
        ]
    )


def test_a_file_that_changed_and_is_as_large_as_before_is_a_difference(tmp_path: Path) -> None:
    before, after = configured(tmp_path / "site.conf", "DEBUG=0\n"), configured(tmp_path / "site.conf", "DEBUG=1\n")
    found = compare(before, after)
    assert not found.same and found.other_bytes == ("configuration.tar",)
    assert "nothing differs" not in render(found)
    assert "configuration.tar: as large as before, and other bytes" in render(found) and "--files" in render(found)
    assert compare(after, after).same


def test_dumps_of_the_same_rows_have_other_bytes_and_are_no_difference() -> None:
    dumps = [
        [Artifact(name="database.dump", part="database", size=100, sha256=digit * 64, stored={})] for digit in "01"
    ]
    assert compare(manifest(artifacts=dumps[0]), manifest(artifacts=dumps[1])).same
