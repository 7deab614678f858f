"""Streams on their way back: counted, checked, read ahead."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator

import pytest

from twist_dr.errors import ArtifactInvalid, AuthenticationFailed, Cancelled
from twist_dr.storage.chunks import buffered, counted, hashed, prefetch, read_chunks
from twist_dr_tests.helpers import chunked, digest_of, joined, no_thread_stays, noise

PLAIN = noise(2_500_000)


def test_good_bytes_pass_and_other_bytes_are_refused_by_name() -> None:
    assert joined(hashed(chunked(PLAIN), digest_of(PLAIN), "media.tar")) == PLAIN
    for other in (PLAIN[:-1], PLAIN + b"x", b"", b"x" + PLAIN[1:]):
        with pytest.raises(ArtifactInvalid, match=r"media\.tar"):
            joined(hashed(chunked(other), digest_of(PLAIN), "media.tar"))


def test_a_stream_that_never_ends_is_refused_as_soon_as_it_is_too_long() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    taken = 0
    with pytest.raises(ArtifactInvalid, match="more than the recorded 2500000 bytes"):
        for chunk in hashed(endless(), digest_of(PLAIN), "media.tar"):
            taken += len(chunk)
    assert taken <= 2_500_000


def test_a_tar_reader_reads_a_stream_of_uneven_chunks() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("logo.png")
        member.size = len(PLAIN)
        archive.addfile(member, io.BytesIO(PLAIN))
    with buffered(chunked(file.getvalue())) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        found = archive.next()
        assert found is not None
        content = archive.extractfile(found)
        assert content is not None
        assert joined(read_chunks(content, 10_000)) == PLAIN  # type: ignore[arg-type]


def test_progress_can_stop_a_stream() -> None:
    def stop(count: int) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        joined(counted([b"x"], stop))


def test_reading_ahead_changes_nothing_and_leaves_no_thread() -> None:
    with no_thread_stays():
        assert joined(prefetch(chunked(PLAIN))) == PLAIN


def test_an_error_of_the_source_arrives_after_the_bytes_before_it() -> None:
    def broken() -> Iterator[bytes]:
        yield b"good"
        raise AuthenticationFailed("altered")

    got = []
    with no_thread_stays(), pytest.raises(AuthenticationFailed):
        for chunk in prefetch(broken()):
            got.append(chunk)
    assert got == [b"good"]


def test_a_reader_that_gives_up_leaves_no_thread_and_the_source_stops() -> None:
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(10)

    with no_thread_stays():
        stream = prefetch(endless(), depth=2)
        next(stream)
        time.sleep(0.05)
        stream.close()  # type: ignore[attr-defined]
    assert made < 10
