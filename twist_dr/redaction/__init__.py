"""What must not leave us: every sentence for a log, a page, the catalog, a message or a terminal goes through :func:`leaving`.

The process knows its secrets by those who bring them: the settings as they are read, the keyring, a command's environment. Each of them
calls one of the ``keep_`` functions. Control characters leave us as escapes only. What is a name (database, role, host, port, bucket, folder, ...) is never hidden, whatever else it is.
"""

from twist_dr.redaction.known import (
    forget,
    keep_environment,
    keep_names,
    keep_secret,
    keep_service_url,
    keep_text,
    keep_url,
    leaving,
    quoting,
)
from twist_dr.redaction.services import hiding_url, server_of
from twist_dr.redaction.visible import one_line, visible

__all__ = [
    "forget",
    "hiding_url",
    "keep_environment",
    "keep_names",
    "keep_secret",
    "keep_service_url",
    "keep_text",
    "keep_url",
    "leaving",
    "one_line",
    "quoting",
    "server_of",
    "visible",
]
