"""From base backups on storage targets to a data folder that a server can start from.

<work>/data                     the cluster's files; only there once all of them were good
<work>/tablespaces/<oid>        every further tablespace, wherever it lay on the primary
<work>/links/<n>/...            the links of an incremental chain, until they are combined
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from twist_dr.errors import ProcessFailed, RecoveryFailed
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.untar import Owner, untar
from twist_dr.repository.manifest import BaseFacts, Manifest
from twist_dr.repository.sources import OneCopy, Sources
from twist_dr.repository.streams import full_disk_named
from twist_dr.storage.base import OnBytes
from twist_dr.system.processes import run
from twist_dr.system.progress import Report
from twist_dr.system.words import counted

_MANIFEST = "backup_manifest"
#: Of a base's own: it would make a standby of the recovered server, or aim it elsewhere. (tablespace_map: see unpack_chain.)
_MUST_GO = ("tablespace_map", "standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts")


def base_facts(manifest: Manifest) -> BaseFacts:
    """What a base backup's manifest says of it. Raises ``RecoveryFailed`` for a backup of another kind."""
    if manifest.base is None:
        raise RecoveryFailed(f"{manifest.backup_id} is no base backup", remedy="choose one of kind base")
    return manifest.base


def unpack_chain(chain: Sequence[Sources], work: Path, tools: Tools, owner: Owner, report: Report) -> Path:
    """Make the data folder of a chain, the full base first; returns ``<work>/data``, which must not be there yet.

    Tablespaces always get a place of their own below ``work``: PostgreSQL makes links from ``tablespace_map`` when it starts, to
    where they were on the primary, so that file goes. A link that is damaged is found before it is combined, as a combined
    backup hides it. Raises ``RecoveryFailed``, ``StagingFull``, and what reading backups raises.
    """
    places = work / "tablespaces"
    if places.exists() and any(places.iterdir()):
        raise RecoveryFailed(f"{places} is not empty", remedy="move away what is in it, then run the recovery again")
    with full_disk_named(work):
        if len(chain) == 1:
            data = _unpack(chain[0], work, owner, report)
            # The bytes are those that were stored; that all files are in their places is quickly seen.
            _verify(data, chain[0].manifest, tools, owner, "--skip-checksums")
        else:
            data = _combine(chain, work, tools, owner, report)
        for name in _MUST_GO:
            (data / name).unlink(missing_ok=True)
    return data


def _unpack(source: Sources, folder: Path, owner: Owner, report: Report) -> Path:
    """One backup as ``<folder>/data`` and ``<folder>/tablespaces``, from the first target that has all of it good."""
    manifest = source.manifest
    facts = base_facts(manifest)
    stored = sum(source.stored_size(name) for name in _archives(facts))

    def work(copy: OneCopy) -> None:
        partial = owner.make_folder(folder / "partial")
        try:
            with report.part(f"unpacking {manifest.backup_id}", stored) as advance:
                _unpack_archives(copy, folder, owner, advance)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    source.attempt(work)
    partial = folder / "partial"
    if (partial / "tablespaces").exists():
        (partial / "tablespaces").rename(folder / "tablespaces")
    (partial / "data").rename(folder / "data")
    partial.rmdir()
    if not (folder / "data" / _MANIFEST).exists():
        # It names every file of the cluster, and may be large.
        source.fetch(_MANIFEST, folder / "data" / _MANIFEST)
        owner.take(folder / "data" / _MANIFEST)
    return folder / "data"


def _archives(facts: BaseFacts) -> list[str]:
    return ["base.tar", *(f"{tablespace.oid}.tar" for tablespace in facts.tablespaces)]


def _unpack_archives(copy: OneCopy, folder: Path, owner: Owner, advance: OnBytes) -> None:
    facts, backup_id = base_facts(copy.manifest), copy.manifest.backup_id
    partial = folder / "partial"
    # Links say where the tablespaces will be when all is good.
    links = {tablespace.oid: folder / "tablespaces" / str(tablespace.oid) for tablespace in facts.tablespaces}
    if links:
        owner.make_folder(partial / "tablespaces")
    for name in _archives(facts):
        place = partial / "data" if name == "base.tar" else partial / "tablespaces" / name.removesuffix(".tar")
        owner.make_folder(place)
        untar(copy.read(name, advance), place, owner, f"{backup_id}/{name}", links)
    _make_links(partial / "data", links, backup_id)


def _make_links(data: Path, links: Mapping[int, Path], backup_id: str) -> None:
    """Links to the tablespaces' new places. ``tablespace_map`` names every one that the cluster had; a tar has no links itself."""
    table = data / "tablespace_map"
    for line in table.read_bytes().splitlines() if table.exists() else ():
        named = line.partition(b" ")[0].decode(errors="replace")
        if named.isdecimal() and int(named) not in links:
            raise RecoveryFailed(
                f"{backup_id} has no files of the tablespace with OID {named}, though the cluster had it",
                remedy="take another base backup",
            )
    for oid, place in links.items():
        link = data / "pg_tblspc" / str(oid)
        if not link.is_symlink():
            link.symlink_to(place)


def _combine(chain: Sequence[Sources], work: Path, tools: Tools, owner: Owner, report: Report) -> Path:
    """Each link unpacked and verified alone, then all of them put together; the links are gone afterwards."""
    links = owner.make_folder(work / "links")
    folders: list[Path] = []
    for number, source in enumerate(chain):
        data = _unpack(source, owner.make_folder(links / str(number)), owner, report)
        report.info(f"verifying {source.manifest.backup_id} against its backup_manifest")
        _verify(data, source.manifest, tools, owner)
        folders.append(data)
    arguments: list[str | Path] = [
        tools.program("pg_combinebackup"),
        "--no-sync",
        "--no-manifest",
        "--output",
        work / "data",
    ]
    if tools.major >= 18:
        # Files that need no putting together are not copied: the links go anyway.
        arguments.append("--link")
    # It may write there, and not beside it.
    owner.make_folder(work / "data")
    tablespaces = base_facts(chain[-1].manifest).tablespaces
    if tablespaces:
        owner.make_folder(work / "tablespaces")
    for tablespace in tablespaces:
        old, new = folders[-1].parent / "tablespaces" / str(tablespace.oid), work / "tablespaces" / str(tablespace.oid)
        arguments.append(f"--tablespace-mapping={_mapped(old)}={_mapped(new)}")
    report.info(f"combining {counted(len(chain), 'base backup')}")
    try:
        run([*arguments, *folders], environment={"LC_ALL": "C"}, user=owner.user, group=owner.group, folder=links)
    except ProcessFailed as error:
        raise RecoveryFailed(
            f"The chain up to {chain[-1].manifest.backup_id} cannot be put together: {error}",
            remedy="recover from an older full base backup",
        ) from error
    shutil.rmtree(links)
    return work / "data"


def _mapped(path: Path) -> str:
    """A path as --tablespace-mapping takes it."""
    return str(path).replace("=", "\\=")


def _verify(data: Path, manifest: Manifest, tools: Tools, owner: Owner, *options: str) -> None:
    """Hold the files against PostgreSQL's own manifest: all of them there and none besides, every byte unless ``options`` say less."""
    try:
        run(
            [tools.program("pg_verifybackup"), "--no-parse-wal", "--quiet", "--exit-on-error", *options, data],
            environment={"LC_ALL": "C"},
            user=owner.user,
            group=owner.group,
            folder=data,
        )
    except ProcessFailed as error:
        raise RecoveryFailed(
            f"{manifest.backup_id} is not what PostgreSQL backed up: {error}", remedy="recover from a chain without it"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make durable all that was written to the file system of a folder: with fsync per file, many take ten times as long."""
    run(["sync", "-f", folder])


def space_needed(chain: Sequence[Manifest], wal_bytes: int, wal_kept: int) -> int:
    """Bytes that a recovery takes on disk at its fullest: each link unpacked, the result, and WAL, of which at most ``wal_kept`` lies there."""
    links = sum(
        artifact.size for manifest in chain for artifact in manifest.artifacts if artifact.name.endswith(".tar")
    )
    full = sum(artifact.size for artifact in chain[0].artifacts if artifact.name.endswith(".tar"))
    return links + (full if len(chain) > 1 else 0) + min(wal_bytes, wal_kept)
