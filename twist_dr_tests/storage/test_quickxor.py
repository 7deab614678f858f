"""The hash that Microsoft 365 computes, against published values and rclone's own."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from twist_dr.storage.quickxor import QuickXor


def hashed(data: bytes, largest_piece: int) -> str:
    found, place = QuickXor(), 0
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


def test_whatever_the_pieces_it_is_what_rclone_computes(tmp_path: Path) -> None:
    contents = {f"{size}": os.urandom(size) for size in (159, 160, 161, 1000, (5 << 20) + 7)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    program = str(Path(sys.executable).with_name("rclone"))
    said = subprocess.run([program, "hashsum", "quickxor", str(tmp_path)], capture_output=True, text=True, check=True)
    rclones = {name: value for value, name in (line.split() for line in said.stdout.splitlines())}
    assert {name: hashed(content, max(7, len(content) // 5)) for name, content in contents.items()} == rclones
