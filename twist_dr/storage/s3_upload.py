"""Sending one file to an S3 store: in one request, or in parts over several connections; never over another object."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from twist_dr.errors import TargetRefused
from twist_dr.storage.s3_connection import S3Connection
from twist_dr.storage.s3_errors import answer_code, may_pass, status_of
from twist_dr.storage.s3_resume import BegunUpload, UploadNote, upload_note
from twist_dr.storage.s3_transfer import Measured, PartBody, UploadPart, Watch, encoded, in_parallel, measure

#: What stores answer that do not know ``If-None-Match`` on a write.
_CONDITION_UNKNOWN = {"NotImplemented", "InvalidArgument", "InvalidRequest", "UnsupportedHeader", "400", "501"}


class OtherWasFirst(Exception):
    """Another process has stored an object under this key while we waited for it."""


class S3Uploader:
    """``sha256``: send SHA-256 for the store to check. ``notes``: the folder where it is noted how far uploads in parts are, so that they are gone on
    with; None: what is cut short is taken back.
    """

    def __init__(self, connection: S3Connection, *, sha256: bool, notes: Path | None) -> None:
        self._connection, self._sha256, self._notes = connection, sha256, notes
        options = connection.options
        attributes = {
            "StorageClass": options.storage_class,
            "ServerSideEncryption": options.server_side_encryption,
            "SSEKMSKeyId": options.kms_key_id,
        }
        #: Of each new object.
        self.attributes = {name: value for name, value in attributes.items() if value is not None}
        self._lock_days, self._lock_mode = options.object_lock_days, options.object_lock_mode
        self._conditional = True
        self._lockable = False

    def send(self, source: Path, key: str, measured: Measured, watch: Watch) -> str | None:
        """Upload; return the version that this made, if the bucket keeps versions. Raises botocore's errors."""
        descriptor = os.open(source, os.O_RDONLY)
        try:
            send = self._send_whole if len(measured.parts) == 1 else self._send_parts
            answer = send(descriptor, key, measured, watch)
        finally:
            os.close(descriptor)
        version: str | None = answer.get("VersionId")
        return version

    def require_lockable(self) -> None:
        """Raise ``TargetRefused`` if objects are to be locked and the bucket cannot do it. Asks once.

        Asked before anything is sent, because some stores take a request to lock for an upload (rclone 1.75 does).
        """
        from botocore.exceptions import ClientError

        if self._lock_days is None or self._lockable:
            return
        connection = self._connection
        try:
            answer = connection.client.get_object_lock_configuration(Bucket=connection.bucket)
            enabled = answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled")
        except ClientError as error:
            if status_of(error) >= 500 and status_of(error) != 501:
                raise
            enabled = answer_code(error)
        if enabled != "Enabled":
            raise TargetRefused(
                f"the bucket '{connection.bucket}' does not do Object Lock (it says {enabled})",
                remedy="make one with Object Lock, allow these credentials s3:GetBucketObjectLockConfiguration, or drop "
                f"storage_targets.{connection.name}.object_lock_days",
                target=connection.name,
            )
        self._lockable = True

    def lock(self, key: str) -> None:
        """Make sure that the object is locked if it is to be: some stores ignore what comes with a multipart upload."""
        if self._lock_days is None or self._is_locked(key):
            return
        connection, wanted = self._connection, self._lock_arguments()
        retention = {"Mode": wanted["ObjectLockMode"], "RetainUntilDate": wanted["ObjectLockRetainUntilDate"]}
        connection.client.put_object_retention(**connection.place(key), Retention=retention)
        if not self._is_locked(key):
            raise TargetRefused(
                f"{key} was stored but shows no lock",
                remedy="allow these credentials s3:PutObjectRetention and s3:GetObjectRetention, or drop "
                f"storage_targets.{connection.name}.object_lock_days",
                target=connection.name,
            )

    def _is_locked(self, key: str) -> bool:
        return "ObjectLockRetainUntilDate" in (self._connection.head(key) or {})

    def _send_whole(self, descriptor: int, key: str, measured: Measured, watch: Watch) -> dict[str, Any]:
        part = measured.parts[0]

        def call(**condition: str) -> Any:
            body = PartBody(descriptor, part, watch)
            return self._connection.client.put_object(
                **self._object(key, measured), **self._checksums(part), Body=body, **condition
            )

        answer: dict[str, Any] = self._once(call)
        return answer

    def _send_parts(self, descriptor: int, key: str, measured: Measured, watch: Watch) -> dict[str, Any]:
        client, place = self._connection.client, self._connection.place(key)
        with upload_note(self._notes, f"{self._connection.url}{key}", watch.alive) as note:
            if note.waited and self._connection.head(key) is not None:
                raise OtherWasFirst
            begun = self._begun(note, key, measured)
            upload = begun.upload

            def send(part: UploadPart) -> dict[str, Any]:
                told = begun.parts.get(part.number)
                if told is None:
                    body = PartBody(descriptor, part, watch)
                    answer = client.upload_part(
                        **place, UploadId=upload, PartNumber=part.number, Body=body, **self._checksums(part)
                    )
                    checksum = {"ChecksumSHA256": encoded(part.sha256)} if part.sha256 is not None else {}
                    told = {"ETag": answer["ETag"], **checksum}
                    note.add(part.number, told)
                return {"PartNumber": part.number, **told}

            def complete(**condition: str) -> Any:
                return client.complete_multipart_upload(
                    **place, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
                )

            try:
                parts = in_parallel(measured.parts, self._connection.options.connections, watch, send)
                answer: dict[str, Any] = self._once(complete)
            except BaseException as error:
                if not (note.remembers and may_pass(error)):
                    self._abort(place, upload)
                    note.end()
                raise
            note.end()
            return answer

    def _begun(self, note: UploadNote, key: str, measured: Measured) -> BegunUpload:
        """The upload that was noted, with those of its parts that the store has as they were sent; a new one where none can be gone on with."""
        client, place = self._connection.client, self._connection.place(key)
        what = {
            "sha256": measured.digest.sha256,
            "parts": len(measured.parts),
            "part_size": measured.parts[0].size,
            "attributes": self.attributes,
            # A lock's end is set by the beginning: an upload is gone on with on the same day only.
            "lock": [str(value)[:10] for value in self._lock_arguments().values()],
            "checksums": self._sha256,
        }
        noted = note.begun(what)
        if noted is not None:
            there = self._parts_there(place, noted, measured)
            if there:
                return BegunUpload(noted.upload, there)
            self._abort(place, noted.upload)
        algorithm = {"ChecksumAlgorithm": "SHA256"} if self._sha256 else {}
        upload = client.create_multipart_upload(**self._object(key, measured), **algorithm)["UploadId"]
        note.begin(upload, what)
        return BegunUpload(upload, {})

    def _parts_there(
        self, place: dict[str, str], noted: BegunUpload, measured: Measured
    ) -> dict[int, Mapping[str, str]]:
        """The noted parts that the store still has, none where it does not say."""
        sizes = {part.number: part.size for part in measured.parts}
        there: dict[int, Mapping[str, str]] = {}
        for part in self._connection.parts(place, noted.upload):
            number, told = int(part["PartNumber"]), noted.parts.get(int(part["PartNumber"]))
            if told is not None and (part["ETag"], part["Size"]) == (told["ETag"], sizes.get(number)):
                there[number] = told
        return there

    def _once(self, call: Callable[..., Any]) -> Any:
        """Make a write that must not overwrite; without the condition where the store does not know it."""
        from botocore.exceptions import ClientError

        if self._conditional:
            try:
                return call(IfNoneMatch="*")
            except ClientError as error:
                if answer_code(error) not in _CONDITION_UNKNOWN:
                    raise
        answer = call()
        self._conditional = False
        return answer

    def _object(self, key: str, measured: Measured) -> dict[str, Any]:
        metadata = {"sha256": measured.digest.sha256, "size": str(measured.digest.size)}
        return {**self._connection.place(key), "Metadata": metadata, **self.attributes, **self._lock_arguments()}

    def _lock_arguments(self) -> dict[str, Any]:
        if self._lock_days is None:
            return {}
        until = datetime.now(timezone.utc) + timedelta(days=self._lock_days)
        return {"ObjectLockMode": self._lock_mode, "ObjectLockRetainUntilDate": until}

    def _checksums(self, part: UploadPart) -> dict[str, str]:
        """What the store shall compare with what arrives. Without, the request's signature covers its body."""
        if part.sha256 is not None:
            return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": encoded(part.sha256)}
        return {} if part.md5 is None else {"ContentMD5": encoded(part.md5)}

    def measure(self, source: Path, part_size: int) -> Measured:
        """Read the source with the digests that sending it takes: Object Lock demands one of the two (PutObject, S3 API)."""
        return measure(source, part_size, sha256=self._sha256, md5=self._lock_days is not None and not self._sha256)

    def _abort(self, place: dict[str, str], upload: str) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._connection.client.abort_multipart_upload(**place, UploadId=upload)
        except (BotoCoreError, ClientError):
            return  # Gone already, or out of reach: sweep removes it.
