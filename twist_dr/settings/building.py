"""Storage targets from their settings."""

from __future__ import annotations

from pydantic import SecretStr

from twist_dr.settings import LocalTargetSettings, NasTargetSettings, S3TargetSettings, Settings
from twist_dr.storage.base import StorageTarget


def build_target(name: str, settings: LocalTargetSettings | NasTargetSettings | S3TargetSettings) -> StorageTarget:
    """The target of that name. No I/O."""
    if isinstance(settings, LocalTargetSettings):
        from twist_dr.storage.local import LocalTarget

        return LocalTarget(name, settings.path)
    if isinstance(settings, NasTargetSettings):
        from twist_dr.storage.nas import NasTarget

        return NasTarget(
            name, settings.path, mount_point=settings.mount_point, timeout_seconds=settings.timeout_seconds
        )
    from twist_dr.storage.s3 import S3Target

    return S3Target(
        name,
        bucket=settings.bucket,
        prefix=settings.prefix,
        endpoint_url=settings.endpoint_url,
        region=settings.region,
        access_key_id=settings.access_key_id,
        secret_access_key=_shown(settings.secret_access_key),
        session_token=_shown(settings.session_token),
        path_style=settings.path_style,
        checksum=settings.checksum,
        part_size=settings.part_size_mib << 20,
        connections=settings.connections,
        storage_class=settings.storage_class,
        server_side_encryption=settings.server_side_encryption,
        kms_key_id=settings.kms_key_id,
        object_lock_days=settings.object_lock_days,
        object_lock_mode=settings.object_lock_mode,
    )


def build_targets(settings: Settings) -> dict[str, StorageTarget]:
    """All enabled targets by name, in the order of the settings: reading tries them in that order. No I/O."""
    return keep_apart({name: build_target(name, target) for name, target in settings.enabled_targets.items()})


def keep_apart(targets: dict[str, StorageTarget]) -> dict[str, StorageTarget]:
    """The same targets, of which those that are folders know each other: before one writes or deletes, it makes sure that no other is the same."""
    from twist_dr.storage.local import LocalTarget

    folders = [target for target in targets.values() if isinstance(target, LocalTarget)]
    for folder in folders:
        folder.others = folders
    return targets


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
