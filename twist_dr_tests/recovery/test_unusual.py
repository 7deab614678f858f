"""Clusters in which PostgreSQL does not do the usual thing: nothing was committed, nobody may look in, others are subscribed to."""

from __future__ import annotations

from pathlib import Path

from twist_dr.recovery.planning import PlannedRecovery
from twist_dr.recovery.recover import recover
from twist_dr.repository.manifest import ArtifactForm, Manifest
from twist_dr.system.progress import Report
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.primaries import MB
from twist_dr_tests.recovery.material import Material
from twist_dr_tests.recovery.world import Base, World, archives_of, plan_of, rows


def test_a_point_behind_a_base_since_which_nothing_was_committed_is_recovered(world: World, open_folder: Path) -> None:
    primary = world.primary
    primary.write(3)
    count = int(primary.one("SELECT count(*) FROM log"))
    quiet = Base(primary, f"quiet-{open_folder.name}")
    primary.sql("SELECT pg_create_restore_point('quiet')")
    primary.sql("SELECT pg_logical_emit_message(false, 'test', 'before the first commit')")
    lsn = primary.one("SELECT pg_current_wal_insert_lsn()")
    primary.write(2)
    primary.archived()
    archives = archives_of(primary)
    material = Material(open_folder, primary.tools, archives.identifier, MB, [_known(world.base), _known(quiet)])
    material.ship(primary.archive)
    plan = material.plan(f"lsn:{lsn}")
    assert plan.base.backup_id == quiet.manifest.backup_id
    with recover(PlannedRecovery(plan, archives, world.tools, KEYRING, Report()), [quiet], open_folder) as recovered:
        assert rows(recovered.cluster()) == count


def _known(base: Base) -> Manifest:
    """As it would be on a storage target."""
    manifest = base.manifest
    assert manifest.base is not None
    artifacts = [
        artifact.model_copy(
            update={"stored": {"none": ArtifactForm(name=artifact.name, size=artifact.size, sha256="0" * 64)}}
        )
        for artifact in manifest.artifacts
    ]
    return Manifest.model_construct(**{**dict(manifest), "artifacts": artifacts})


def test_a_long_transaction_with_many_savepoints_does_not_keep_the_result_from_being_proved(
    world: World, open_folder: Path
) -> None:
    primary = world.primary
    with primary.cluster().connect(autocommit=False) as importing:
        for _ in range(100):
            importing.execute("SAVEPOINT s")
            importing.execute("INSERT INTO log (filling) VALUES ('never committed')")
        base = Base(primary, f"busy-{open_folder.name}")
        primary.write(5)
        point = primary.mark()
        importing.rollback()
    primary.write(1)
    primary.archived()
    plan = plan_of(primary, [base], point)
    with recover(
        PlannedRecovery(plan, archives_of(primary), world.tools, KEYRING, Report()), [base], open_folder
    ) as recovered:
        assert rows(recovered.cluster()) == point.rows


def test_a_recovered_server_takes_nothing_from_the_servers_that_it_was_subscribed_to(
    world: World, open_folder: Path
) -> None:
    primary = world.primary
    primary.sql(
        "CREATE SUBSCRIPTION taking CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false, slot_name = 'live')"
    )
    primary.sql("ALTER SUBSCRIPTION taking ENABLE")
    base = Base(primary, f"subscribed-{open_folder.name}")
    primary.write(1)
    point = primary.mark()
    primary.sql("ALTER SUBSCRIPTION taking DISABLE")
    primary.sql("ALTER SUBSCRIPTION taking SET (slot_name = NONE)")
    primary.sql("DROP SUBSCRIPTION taking")
    primary.archived()
    plan = plan_of(primary, [base], point)
    with (
        recover(
            PlannedRecovery(plan, archives_of(primary), world.tools, KEYRING, Report()), [base], open_folder
        ) as recovered,
        recovered.cluster().connect() as connection,
    ):
        found = connection.execute(
            "SELECT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%'"
        ).fetchall()
    assert found == []


def test_a_transaction_that_is_prepared_and_pending_at_the_point_is_named(world: World, open_folder: Path) -> None:
    primary = world.primary
    base = Base(primary, f"prepared-{open_folder.name}")
    with primary.cluster().connect(autocommit=False) as transfer:
        transfer.execute("INSERT INTO log (filling) VALUES ('of a transfer')")
        transfer.execute("PREPARE TRANSACTION 'transfer 7'")
    primary.write(1)
    point = primary.mark()
    primary.sql("COMMIT PREPARED 'transfer 7'")
    primary.archived()
    plan = plan_of(primary, [base], point)
    with recover(
        PlannedRecovery(plan, archives_of(primary), world.tools, KEYRING, Report()), [base], open_folder
    ) as recovered:
        (warning,) = recovered.warnings
        assert "the prepared transaction transfer 7 of postgres in the database postgres" in warning
        assert rows(recovered.cluster()) == point.rows
        with recovered.cluster().connect() as connection:
            connection.execute("COMMIT PREPARED 'transfer 7'")
        assert rows(recovered.cluster()) == point.rows + 1
