"""Extended attributes and access control lists of files and folders, as tar archives keep them and file systems take them back.

In pax records, as GNU tar, star and libarchive write and read them: ``SCHILY.xattr.user.*``, ``SCHILY.acl.access`` and ``.default`` as text
with numeric ids (our owners are numeric too), ``RHT.security.selinux``. What else there is, is counted by name and not kept: a file of a tenant
must not come back with ``security.capability``, and ``trusted.*`` and ``system.*`` belong to a file system or a daemon, not to the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping

from twist_dr.system.words import counted, shown

#: By pax keyword.
Attributes = dict[str, bytes]
#: Told what could not be set, in words, and why.
Failed = Callable[[str, OSError], None]

_USER, _XATTR = "user.", "SCHILY.xattr."
_ACLS = {"system.posix_acl_access": "SCHILY.acl.access", "system.posix_acl_default": "SCHILY.acl.default"}
_LABEL, _LABEL_KEYWORD = "security.selinux", "RHT.security.selinux"
#: Of one file. Linux takes 64 KiB a value (VFS, xattr(7)); a pax header that readers hold in memory must stay far below a megabyte.
MOST_BYTES, MOST_VALUES = 256 << 10, 256

#: acl(5), and linux/posix_acl_xattr.h: a version, then tag, permissions and id of each entry.
_ACL_VERSION, _ENTRY, _NO_ID = 2, struct.Struct("<HHI"), 0xFFFFFFFF
_TAGS = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
_WITH_ID = {"user": 0x02, "group": 0x08}
_WITHOUT_ID = {"user": 0x01, "group": 0x04, "mask": 0x10, "other": 0x20}
_RIGHTS = "rwx"

NO_ATTRIBUTES = hashlib.sha256().hexdigest()
"""The digest of none."""


class NotKept:
    """What was seen of files and is not kept. ``names``: of attributes, with the number of files and folders that have them; ``named_outside``:
    files with further names outside the folder, which become files of their own."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.too_large = 0
        self.named_outside = 0

    def sentences(self) -> list[str]:
        said = [
            f"{counted(count, 'file or folder', 'has', 'have')} the attribute {shown(name)}, which backups do not keep"
            for name, count in sorted(self.names.items())
        ]
        if self.too_large:
            said.append(
                f"{counted(self.too_large, 'file or folder', 'has', 'have')} more extended attributes than the {MOST_VALUES} and {MOST_BYTES >> 10} KiB that backups keep of each"
            )
        if self.named_outside:
            said.append(
                f"{counted(self.named_outside, 'file', 'has', 'have')} further names (hard links) elsewhere, without which a file comes back as one of its own"
            )
        return said


def read_attributes(descriptor: int, not_kept: NotKept) -> Attributes:
    """What an open file or folder has, and backups keep. Never raises: one that cannot be read is counted as not kept."""
    if not hasattr(os, "listxattr"):
        return {}
    try:
        names = os.listxattr(descriptor)
    except OSError:  # a file system without
        return {}
    found: Attributes = {}
    room = MOST_BYTES
    for name in sorted(names):
        try:
            value = os.getxattr(descriptor, name)
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed since it was listed
                not_kept.names[name] += 1
            continue
        pair = _to_pax(name, value)
        if pair is None:
            not_kept.names[name] += 1
            continue
        room -= len(pair[0]) + len(pair[1])
        if room < 0 or len(found) == MOST_VALUES:
            not_kept.too_large += 1
            break
        found[pair[0]] = pair[1]
    return found


def to_headers(attributes: Attributes) -> dict[str, str]:
    """As :mod:`tarfile` takes records of any bytes."""
    return {keyword: value.decode("utf-8", "surrogateescape") for keyword, value in attributes.items()}


def of_member(member: tarfile.TarInfo) -> Attributes:
    """Those of a member that was read with ``errors="surrogateescape"``."""
    return {
        keyword: value.encode("utf-8", "surrogateescape")
        for keyword, value in member.pax_headers.items()
        if keyword.startswith(_XATTR) or keyword in _ACLS.values() or keyword == _LABEL_KEYWORD
    }


def digest(attributes: Mapping[str, bytes]) -> str:
    """SHA-256 in hex of names and values, whatever their order."""
    whole = hashlib.sha256()
    for keyword, value in sorted(attributes.items()):
        whole.update(b"%d %d " % (len(keyword), len(value)))
        whole.update(keyword.encode("utf-8", "surrogateescape") + value)
    return whole.hexdigest()


def set_values(descriptor: int, attributes: Attributes, failed: Failed) -> None:
    """Set what is no access control list. Before the mode: attributes of a file that we may not write cannot be set."""
    for keyword, value in attributes.items():
        if keyword == _LABEL_KEYWORD:
            _set(descriptor, _LABEL, value + b"\0", "SELinux labels", failed)
        elif keyword.startswith(_XATTR + _USER):
            name = keyword.removeprefix(_XATTR).replace("%3D", "=").replace("%25", "%")
            _set(descriptor, name, value, "extended attributes", failed)


def set_lists(descriptor: int, attributes: Attributes, failed: Failed) -> None:
    """Set access control lists. After the mode, whose group bits are the mask. Raises ``ValueError`` for a damaged one."""
    for name, keyword in _ACLS.items():
        if keyword in attributes:
            _set(descriptor, name, _acl_bytes(attributes[keyword]), "access control lists", failed)


def clear_lists(descriptor: int) -> None:
    """Remove those that a new folder inherited from the one above it, so that nothing in it does."""
    if hasattr(os, "removexattr"):
        for name in _ACLS:
            with contextlib.suppress(OSError):  # there is none, or none can be
                os.removexattr(descriptor, name)


def _set(descriptor: int, name: str, value: bytes, what: str, failed: Failed) -> None:
    try:
        os.setxattr(descriptor, name, value)
    except OSError as error:
        failed(what, error)


def _to_pax(name: str, value: bytes) -> tuple[str, bytes] | None:
    if name.startswith(_USER):
        # As GNU tar does: a keyword ends at the first equals sign. It is UTF-8 (POSIX, pax), which names need not be.
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            return None
        return _XATTR + name.replace("%", "%25").replace("=", "%3D"), value
    if name == _LABEL:
        return _LABEL_KEYWORD, value.rstrip(b"\0")
    if name in _ACLS and (text := _acl_text(value)) is not None:
        return _ACLS[name], text
    return None


def _acl_text(value: bytes) -> bytes | None:
    """``user::rwx,user:1000:r--,...``; None for what is no list that we know."""
    if len(value) < 4 or (len(value) - 4) % _ENTRY.size or value[:4] != struct.pack("<I", _ACL_VERSION):
        return None
    entries = []
    for tag, rights, number in _ENTRY.iter_unpack(value[4:]):
        if tag not in _TAGS or rights > 7:
            return None
        who = str(number) if tag in _WITH_ID.values() else ""
        letters = "".join(letter if rights & 4 >> place else "-" for place, letter in enumerate(_RIGHTS))
        entries.append(f"{_TAGS[tag]}:{who}:{letters}")
    return ",".join(entries).encode()


def _acl_bytes(text: bytes) -> bytes:
    out = bytearray(struct.pack("<I", _ACL_VERSION))
    for entry in text.decode("ascii").split(","):
        kind, who, letters = entry.split(":")
        tag = (_WITH_ID if who else _WITHOUT_ID).get(kind)
        if (
            tag is None
            or len(letters) != 3
            or any(got not in (want, "-") for got, want in zip(letters, _RIGHTS, strict=True))
        ):
            raise ValueError("an access control list that is none")
        number = int(who) if who else _NO_ID
        if not 0 <= number <= _NO_ID:
            raise ValueError("an access control list that is none")
        out += _ENTRY.pack(tag, sum(4 >> place for place in range(3) if letters[place] != "-"), number)
    return bytes(out)
