"""The keys: are they there, kept to ourselves, kept apart from the backups, and do they open the newest one."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from twist_dr.doctor.findings import Check, command, from_error, guarded, ok, problem, warning
from twist_dr.errors import TwistDRError
from twist_dr.repository.archive import match_configuration
from twist_dr.repository.keys import Keyring, load_keyring
from twist_dr.repository.newest import find_newest
from twist_dr.repository.repository import Repository
from twist_dr.repository.secrets_file import SecretsFile
from twist_dr.system.progress import Report
from twist_dr.system.words import counted


def check_keyring(
    location: str, media: Mapping[str, Path], configuration: Sequence[str], target_folders: Mapping[str, Path]
) -> Check[Keyring | None]:
    """Returns the keyring if it can be loaded. ``location`` as in the settings, ``target_folders`` by target."""
    try:
        keyring = load_keyring(location)
    except TwistDRError as error:
        yield from_error("keyring", error)
        return None
    if location.startswith("env:"):
        yield ok("keyring", f"{counted(len(keyring.keys), 'key')} from {location}, primary {keyring.primary_id}")
        return keyring
    path = Path(location)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield problem("keyring", f"others may read {path} (mode {mode:04o})", command(["chmod", "600", path]))
    else:
        yield ok("keyring", f"{counted(len(keyring.keys), 'key')} in {path}, primary {keyring.primary_id}")
    yield from guarded("keyring", _travels(path, media, configuration, target_folders))
    return keyring


def _travels(
    path: Path, media: Mapping[str, Path], configuration: Sequence[str], target_folders: Mapping[str, Path]
) -> Check[None]:
    """Whether the keyring would lie beside what it opens, or go where the backups go."""
    holders = {
        **{f"media.{name}": folder.resolve() for name, folder in media.items()},
        **{str(found): found.resolve() for found in match_configuration(configuration)[0]},
        # Not resolved: that would ask a share, which may not answer.
        **{f"storage target {name}": folder for name, folder in target_folders.items()},
    }
    for holder, folder in holders.items():
        if path.resolve().is_relative_to(folder) or path.is_relative_to(folder):
            yield warning(
                "keyring",
                f"{path} travels with the backups: it is part of {holder}",
                "move it to a folder of its own and set encryption.keyring to it; and keep a copy away from this machine",
            )


def check_secrets(file: SecretsFile) -> Check[None]:
    """Whether all that the secrets file holds can be opened. Nothing is said where there is none: what the settings need of it they said themselves."""
    if not file.path.exists():
        return
    try:
        old, held = file.check(), file.listed()
    except TwistDRError as error:
        yield from_error("secrets", error)
        return
    told = f"{counted(len(held['secret']), 'secret')} and {counted(len(held['grant']), 'grant')} in {file.path} can be opened"
    if old:
        yield warning("secrets", f"{told}, {old} of them with an old key", "twist-dr secrets rotate")
    else:
        yield ok("secrets", told)


def check_newest_backup(repositories: Sequence[Repository], keyring: Keyring) -> Check[None]:
    """Whether the newest backup of each target can be opened, and is all there."""
    for repository in repositories:
        check = f"newest on {repository.target.name}"
        try:
            found = find_newest([repository], keyring, "full", Report())
            for error in found.away.values():
                raise error
            for backup_id in found.unauthentic:
                yield from_error(check, next(iter(found.bad[backup_id].values())))
            newest = found.chosen
            if newest is None:
                if not found.unauthentic:
                    yield ok(check, f"no backup of {repository.application} there yet")
                continue
            repository.held(newest)
        except TwistDRError as error:
            yield from_error(check, error)
        else:
            yield ok(check, f"{newest.backup_id} opens with key {newest.key.id} and is all there")
