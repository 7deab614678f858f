"""What the errors of S3 stores mean for us, and what a person does about them.

Codes: the "Error responses" page of the Amazon S3 API reference; R2, B2, MinIO, Ceph and others use the same names.
A HEAD request has no body, so its errors come with the bare status as their code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from twist_dr.errors import (
    CredentialsRefused,
    ObjectArchived,
    ObjectCorrupt,
    ObjectMissing,
    StorageError,
    TargetFull,
    TargetRefused,
    TargetUnavailable,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_KEYS = "correct access_key_id, secret_access_key or session_token of storage_targets.{name}"
_RIGHTS = (
    "allow these credentials s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, s3:DeleteObject "
    "and s3:AbortMultipartUpload on it, or correct bucket and prefix of storage_targets.{name}"
)
_REGION = "correct storage_targets.{name}.region"
_LOOK = "list the target to see what it holds"
_RENEW = "renew it, or use credentials that last"
_THAW = "restore it there first (aws s3api restore-object), then run again"
_OPERATOR = "ask its operator"
_LESS = "delete what is no longer needed"

#: Code or bare status: error class, what it means, what to do. ``{name}`` and ``{bucket}`` are filled in.
_Meaning: TypeAlias = tuple[type[StorageError], str, str]
_MEANINGS: dict[str, _Meaning] = {
    "NoSuchBucket": (
        TargetUnavailable,
        "the bucket '{bucket}' does not exist",
        "create it, or correct storage_targets.{name}.bucket",
    ),
    "InvalidBucketName": (TargetUnavailable, "'{bucket}' cannot be a bucket", "correct storage_targets.{name}.bucket"),
    "NoSuchKey": (ObjectMissing, "there is no such object", _LOOK),
    "BadDigest": (
        ObjectCorrupt,
        "the bytes arrived altered, so nothing was stored",
        "run again, and suspect the network",
    ),
    "InvalidAccessKeyId": (CredentialsRefused, "the store does not know this access key", _KEYS),
    "SignatureDoesNotMatch": (CredentialsRefused, "the secret key does not fit the access key", _KEYS),
    "InvalidToken": (CredentialsRefused, "the session token is not valid", _KEYS),
    "ExpiredToken": (CredentialsRefused, "the session token has expired", _RENEW),
    "TokenRefreshRequired": (CredentialsRefused, "the session token has expired", _RENEW),
    "RequestTimeTooSkewed": (
        TargetRefused,
        "this machine's clock and the store's differ by more than 15 minutes",
        "set this clock (timedatectl, chronyc)",
    ),
    "ConditionalRequestConflict": (TargetUnavailable, "another writer is storing the same object", "run again"),
    "AccessDenied": (CredentialsRefused, "access was denied", _RIGHTS),
    "AllAccessDisabled": (CredentialsRefused, "the store has disabled access", _OPERATOR),
    "AccountProblem": (CredentialsRefused, "the store has a problem with the account", _OPERATOR),
    "InvalidObjectState": (ObjectArchived, "the object is in an archive storage class", _THAW),
    "ObjectNotInActiveTierError": (ObjectArchived, "the object is in an archive storage class", _THAW),
    "AuthorizationHeaderMalformed": (TargetRefused, "the region is wrong", _REGION),
    "PermanentRedirect": (TargetRefused, "the bucket is in another region", _REGION),
    "KMS.NotFoundException": (TargetRefused, "the KMS key does not exist", "correct storage_targets.{name}.kms_key_id"),
    "EntityTooLarge": (TargetRefused, "the store takes no object that large", "lower storage_targets.{name}.part_size"),
    "QuotaExceeded": (TargetFull, "the quota is used up", f"raise it, or {_LESS}"),
    "XMinioStorageFull": (TargetFull, "the store's disks are full", f"add space, or {_LESS}"),
    "ServiceQuotaExceeded": (TargetFull, "the quota is used up", f"raise it, or {_LESS}"),
    "301": (TargetRefused, "the bucket is in another region", _REGION),
    "401": (CredentialsRefused, "the credentials were refused", _KEYS),
    "403": (CredentialsRefused, "access was denied: wrong credentials or missing rights", f"{_KEYS}, or {_RIGHTS}"),
    "404": (ObjectMissing, "there is no such object", _LOOK),
    "405": (TargetRefused, "the store does not know this operation", "see its documentation for what it supports"),
    "501": (TargetRefused, "the store does not know this operation", "see its documentation for what it supports"),
    "507": (TargetFull, "the store is full", f"add space, or {_LESS}"),
}


def status_of(error: ClientError) -> int:
    """The HTTP status of the answer, 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def answer_code(error: ClientError) -> str:
    """The error code of the answer, such as ``NoSuchKey``; the status where there was no body."""
    return str(error.response.get("Error", {}).get("Code", status_of(error)))


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed another time: the network, an overloaded store, credentials that have run out."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    ours = isinstance(error, (BotoCoreError, ClientError, HTTPError))
    return ours and _meaning("", "", error)[0] in (TargetUnavailable, CredentialsRefused)


def may_not_ask(error: ClientError) -> bool:
    """Whether these credentials are not allowed just this."""
    return status_of(error) in (401, 403)


def s3_error(name: str, bucket: str, what: str, error: Exception) -> StorageError:
    """The error of ours that says what botocore's ``error``, met while doing ``what`` on target ``name``, means."""
    kind, meaning, remedy = _meaning(name, bucket, error)
    return kind(f"{what}: {meaning}", remedy=remedy, target=name)


def _meaning(name: str, bucket: str, error: BaseException) -> _Meaning:
    from botocore import exceptions

    match error:
        case exceptions.ClientError():
            code, status = answer_code(error), status_of(error)
            kind, meaning, remedy = _MEANINGS.get(code) or _MEANINGS.get(str(status)) or _unknown(status)
            return kind, f"{meaning.format(bucket=bucket)} ({code}, HTTP {status})", remedy.format(name=name)
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            own = f"give access_key_id and secret_access_key of storage_targets.{name}"
            return CredentialsRefused, "no credentials were found", f"{own}, or set up the machine's own role"
        case exceptions.ParamValidationError() | exceptions.NoRegionError() | exceptions.InvalidRegionError():
            return TargetRefused, str(error), f"correct storage_targets.{name}"
        case exceptions.SSLError():
            return TargetRefused, f"there is no trusted TLS connection ({error})", "install the store's CA certificate"
    return (
        TargetUnavailable,
        f"the store cannot be reached ({error})",
        f"check storage_targets.{name}.endpoint_url, the network and the store, then run again",
    )


def _unknown(status: int) -> _Meaning:
    if status >= 500 or status in (408, 429):
        return TargetUnavailable, "the store is overloaded or has a fault", "run again later"
    kind = CredentialsRefused if status in (401, 403) else TargetRefused
    return kind, "the store refused the request", "look up the code in its documentation"


@contextlib.contextmanager
def s3_errors(name: str, bucket: str, what: str) -> Iterator[None]:
    """Turn botocore's and urllib3's errors of the block into the :class:`StorageError` they mean."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (BotoCoreError, ClientError, HTTPError) as error:
        # "from None": a chained ClientError would show the request's headers in some log handlers.
        raise s3_error(name, bucket, what, error) from None


def retry_more(max_attempts: int) -> Any:
    """A handler of botocore's ``needs-retry`` event for answers that its standard mode takes for final.

    Standard mode retries 429, 500, 502, 503, 504 and connection errors ("Retries" in the boto3 guide). This adds a bare
    408, and what gateways in front of stores say (520 to 530 at R2). It returns seconds to wait, or None.
    """

    def needs_retry(response: Any, attempts: int, **_: Any) -> float | None:
        status = response[0].status_code if response is not None else 0
        if (status == 408 or 520 <= status <= 530) and attempts < max_attempts:
            return min(0.25 * 2.0**attempts, 20.0)
        return None

    return needs_retry
