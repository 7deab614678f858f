"""Where backups are read from and with which keys, said on a command line instead of in a settings file."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError

from twist_dr.cli.recover.arguments import KEYRING_VARIABLE
from twist_dr.cli.recover.asked_grants import AskedGrants
from twist_dr.errors import BackupNotFound, RestoreError, SettingsError
from twist_dr.repository.keys import Keyring, load_keyring
from twist_dr.repository.repository import Repository
from twist_dr.settings import AnyTarget
from twist_dr.settings.filling import fill
from twist_dr.settings.reading import explain
from twist_dr.settings.secrets import keep_settings
from twist_dr.storage.base import StorageTarget, first_strangers, told_of
from twist_dr.storage.machine import GrantsInMemory, Machine
from twist_dr.storage.options import providers, url_forms
from twist_dr.system.documents import BY_HAND, DocumentInvalid, YamlInvalid, read_file, read_yaml
from twist_dr.system.folders import remove_tree

_APPLICATION = re.compile(r"[a-z][a-z0-9_]{0,39}")


class _OneTarget(BaseModel):
    """A target where the settings have theirs, so that mistakes in it are explained in the same words."""

    storage_targets: dict[str, AnyTarget]


def open_keyring(location: str | None) -> Keyring:
    """The keyring of ``--keyring`` or the environment. Raises ``SettingsError`` and ``KeyringInvalid``."""
    location = location or os.environ.get(KEYRING_VARIABLE)
    if not location:
        raise SettingsError(
            "No keyring was named, and without it nothing can be read",
            remedy=f"name its file with --keyring FILE, or in the environment variable {KEYRING_VARIABLE}",
        )
    return load_keyring(location)


@contextmanager
def machine_for_now(grant: Path | None, keyring: str | None) -> Iterator[Machine]:
    """What a target needs of a machine without settings: a folder with a name that nobody can take before us. It is gone afterwards.

    ``grant``: the file that is to keep, under a key of the keyring, what the owner of a drive allows; nothing keeps it otherwise.
    """
    from twist_dr.repository.secrets_file import SecretsFile

    location = keyring or os.environ.get(KEYRING_VARIABLE, "")
    grants = GrantsInMemory() if grant is None else SecretsFile(grant.absolute(), "recover", location)
    folder = Path(tempfile.gettempdir()) / f"twist-dr-targets-{secrets.token_hex(16)}"
    try:
        yield Machine(folder, grants)
    finally:
        with suppress(RestoreError):  # what stays is empty, and in nobody's way
            remove_tree(folder)


def target_settings(place: str) -> AnyTarget:
    """What ``--from-target`` says of the target. Reads at most a description of it. Raises ``SettingsError``."""
    for kind, provider in providers().items():
        if provider.scheme is not None and place.startswith(f"{provider.scheme}:"):
            return _target({"type": kind, **provider.of_url(place)}, place.partition("?")[0].rstrip("/"), Path.cwd())
    scheme, separator, rest = place.partition("://")
    if separator and scheme != "file":
        raise SettingsError(
            f"--from-target takes a folder, {url_forms()}, or a YAML file that describes a storage target: this is none of them."
        )
    path = Path(unquote(rest) if separator else place).absolute()
    if path.is_dir():
        return _target({"type": "local", "path": str(path)}, str(path), path.parent)
    if path.is_file():
        return _described_target(path)
    raise SettingsError(f"There is no {path}", remedy="mount its disk, or correct --from-target")


def _described_target(path: Path) -> AnyTarget:
    try:
        document = read_yaml(read_file(path, BY_HAND.size).decode())
    except YamlInvalid as error:
        place = f"line {error.line}" if error.line else "somewhere"
        raise SettingsError(f"{path} is not YAML: {place}: {error.problem}.") from None
    except DocumentInvalid as error:
        raise SettingsError(f"{path} cannot be read: {error.problem}", remedy="correct it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({type(error).__name__})", remedy="fix its permissions or encoding"
        ) from None
    if not isinstance(document, dict) or "storage_targets" in document:
        raise SettingsError(
            f"{path} must describe one storage target (type, and path or bucket)",
            remedy="put what stands below its name in storage_targets into a file of its own",
        )
    mistakes: list[str] = []
    filled = fill(document, os.environ, "", mistakes, _no_secret)
    if mistakes:
        raise SettingsError(f"{path} has mistakes:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    return _target(filled, str(path), path.parent)


def _no_secret(name: str) -> str:
    # The file that has it is bound to an application's settings, and may have gone with the machine.
    raise SettingsError(
        f"the secret {name} is in the secrets file of the settings, which a recovery does without",
        remedy=f"put the variable ${{{name}}} there, and set that in the environment",
    )


def _target(document: dict[str, Any], source: str, folder: Path) -> AnyTarget:
    whole = {"storage_targets": {"target": document}}
    try:
        target = _OneTarget.model_validate(whole, context={"folder": folder}).storage_targets["target"]
    except ValidationError as error:
        lines = [line.replace("storage_targets.target", "target", 1) for _, line in explain(error, whole)]
        raise SettingsError(f"{source} does not describe a storage target:\n  " + "\n  ".join(lines)) from None
    keep_settings(target, os.environ)
    return target


def open_target(target: AnyTarget, machine: Machine) -> StorageTarget:
    """The target. The owner of a drive is asked when it is first used. No I/O."""
    if target.oauth is not None:
        machine = replace(machine, grants=AskedGrants(target.oauth, machine.grants))
    # Its messages call it by where it is: it has no name of its own here.
    return target.build(target.called, machine)


def choose_application(target: StorageTarget, wanted: str | None) -> Repository:
    """The backups of the application that is wanted, or of the only one. Raises ``BackupNotFound`` and storage errors."""
    if wanted is not None and not _APPLICATION.fullmatch(wanted):
        raise SettingsError("--application takes the name of an application: lower-case letters, digits and '_'.")
    names = target.children("")
    held = [name for name in names if _APPLICATION.fullmatch(name) and Repository(target, name).backup_ids()]
    if wanted in held or (wanted is None and len(held) == 1):
        return Repository(target, wanted or held[0])
    if len(held) > 1 or (held and wanted):
        asked = f"{target.name} holds no backups of {wanted}, but" if wanted else f"{target.name} holds"
        raise BackupNotFound(f"{asked} those of {', '.join(held)}", remedy="say whose with --application NAME")
    led_away = first_strangers(target, "")
    above = (
        f" {told_of(led_away)}, and no link or mount is followed there: name the folder that is meant."
        if led_away
        else ""
    )
    above += " It looks like the folder of one application: name the one above it." if "backups" in names else ""
    raise BackupNotFound(
        f"{target.name} holds no backups",
        remedy=f"correct --from-target (it names what the settings call path, or bucket and prefix).{above}",
    )
