"""The options of ``twist-dr recover``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from twist_dr.cli.output import add_json, wants_json
from twist_dr.storage.target_url import PASSWORD_VARIABLE

DATABASE_VARIABLE = "TWIST_DR_DATABASE_URL"
KEYRING_VARIABLE = "TWIST_DR_KEYRING"

_DESCRIPTION = f"""\
Lists, checks and restores backups with a storage target and the keys alone. Without --check, --backup and --to, lists what is
there: full backups (--backup restores one), configuration backups (--backup with --configuration-to), and base backups with the moments that they and the archived WAL lead to (--to).
Credentials are never arguments: the database's URL is in {DATABASE_VARIABLE}, those of S3 where boto3 looks for them
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ~/.aws); the password of another URL's user in {PASSWORD_VARIABLE}, others in the YAML file as ${{NAME}} of the environment. The owner of a drive is asked."""


def _jobs(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 64:
        raise ValueError(text)
    return count


_jobs.__name__ = "number of jobs from 1 to 64"


def _timeline(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_timeline.__name__ = "number of a timeline, from 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "--from-target", required=True, metavar="FILE_OR_URL",
        help="a folder, s3://BUCKET/PREFIX?endpoint_url=...&region=..., sftp://USER@HOST/PATH, webdav:https://USER@HOST/PATH, rclone:REMOTE:PATH, or a YAML file with one entry of storage_targets",
    )  # fmt: skip
    parser.add_argument(
        "--keyring", metavar="FILE", help=f"the keyring's file, or env:NAME (default: what {KEYRING_VARIABLE} names)"
    )
    parser.add_argument(
        "--grant",
        type=Path,
        metavar="FILE",
        help="keep there, encrypted, what the owner of a drive allows, for the next command (default: each asks anew)",
    )
    parser.add_argument("--application", metavar="NAME", help="whose backups, where the target holds several's")
    add_json(parser, "print JSON (with a list or --check)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--check",
        metavar="BACKUP",
        help="read all of a backup to its end: latest, latest-configuration, latest:LABEL, or an id",
    )
    which.add_argument(
        "--backup", metavar="BACKUP", help="restore from this one: latest, latest-configuration, latest:LABEL, or an id"
    )
    which.add_argument(
        "--to", metavar="POINT",
        help="recover the whole cluster to latest, a time with its zone (2026-01-31T12:00:00+00:00), lsn:0/3000000, xid:1234 or "
        "name:before_import (a restore point)",
    )  # fmt: skip
    parts = parser.add_argument_group("what to restore, with --backup")
    parts.add_argument(
        "--database", action="store_true", help=f"the database, as the new one that {DATABASE_VARIABLE} names"
    )
    parts.add_argument("--media-to", type=Path, metavar="FOLDER", help="the media folders, into a new or empty folder")
    parts.add_argument(
        "--configuration-to",
        type=Path,
        metavar="FOLDER",
        help="the configuration, likewise; of a configuration backup also catalog and Dagster's history",
    )
    parts.add_argument("--dump-to", type=Path, metavar="FILE", help="only the plain dump, and roles.sql beside it")
    parts.add_argument(
        "--jobs", type=_jobs, default=max(2, min(8, os.cpu_count() or 1)), help="parallel restore jobs (default: %(default)s)"
    )  # fmt: skip
    point = parser.add_argument_group("what to do with the point, with --to")
    point.add_argument("--plan", action="store_true", help="change nothing: say what it takes, and what would be lost")
    point.add_argument(
        "--cluster-to", type=Path, metavar="FOLDER", help="the cluster's files, proved and ready to start, into a new or empty folder"
    )  # fmt: skip
    point.add_argument(
        "--base", metavar="BACKUP", help="begin with this base backup (default: the newest that will do)"
    )
    point.add_argument(
        "--timeline", type=_timeline, metavar="NUMBER", help="follow this timeline (default: the newest that has the point)"
    )  # fmt: skip
    point.add_argument(
        "--accept-loss", metavar="POINT",
        help="with --to latest, where archived WAL has vanished: how far what is there must at least reach (lsn:0/3000000, or a time)",
    )  # fmt: skip


def check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with exit status 2 where options do not fit together."""
    parts = (options.database, options.media_to, options.configuration_to, options.dump_to)
    if options.backup and not any(parts):
        parser.error("--backup needs --database, --media-to, --configuration-to or --dump-to")
    if any(parts) and not options.backup:
        parser.error("say which backup: --backup latest, or --backup ID")
    if options.to is not None and options.plan == bool(options.cluster_to):
        parser.error("--to needs either --plan or --cluster-to FOLDER")
    if options.to is None and (
        options.plan or options.cluster_to or options.base or options.timeline or options.accept_loss
    ):
        parser.error("say to which point: --to latest, or --to 2026-01-31T12:00:00+00:00")
    if wants_json(options) and (options.backup or options.to is not None):
        parser.error("--json goes with a list or with --check")
