"""The hashes that Microsoft 365 and Dropbox compute, against published values and rclone's own."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from twist_dr.storage.dropbox_hash import DropboxHash
from twist_dr.storage.quickxor import QuickXor


def hashed(data: bytes, largest_piece: int, kind: Callable[[], QuickXor | DropboxHash] = QuickXor) -> str:
    found, place = kind(), 0
    while place < len(data):
        size = random.randint(1, largest_piece)
        found.update(data[place : place + size])
        place += size
    return found.hexdigest()


@pytest.mark.parametrize(
    ("data", "published"),
    [
        ("", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("Sg==", "SgAAAAAAAAAAAAAAAQAAAAAAAAA="),
        ("h490d57Pqz5q2rtT", "h3gEHe7giWeswgdq3MYupgAAAAA="),
        ("T6LYJIfDh81JrAK309H2JMJTXis=", "zBTHrspn3mEcohlJdIUAbjGNaNg="),
    ],
)
def test_published_values(data: str, published: str) -> None:
    assert hashed(base64.b64decode(data), 3) == base64.b64decode(published).hex()


@pytest.mark.parametrize(("name", "kind"), [("quickxor", QuickXor), ("dropbox", DropboxHash)])
def test_whatever_the_pieces_it_is_what_rclone_computes(
    tmp_path: Path, name: str, kind: type[QuickXor | DropboxHash]
) -> None:
    contents = {f"{size}": os.urandom(size) for size in (0, 159, 160, 161, 1000, 4 << 20, (5 << 20) + 7, 8 << 20)}
    for size, content in contents.items():
        (tmp_path / size).write_bytes(content)
    program = str(Path(sys.executable).with_name("rclone"))
    said = subprocess.run([program, "hashsum", name, str(tmp_path)], capture_output=True, text=True, check=True)
    rclones = {size: value for value, size in (line.split() for line in said.stdout.splitlines())}
    assert {size: hashed(content, max(7, len(content) // 5), kind) for size, content in contents.items()} == rclones
