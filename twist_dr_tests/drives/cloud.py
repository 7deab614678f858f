"""Google and Microsoft, in this process, until a block ends.

::

    with cloud(tmp_path) as vendors:
        subprocess.run(command, env={**os.environ, **vendors.environment})
        vendors.gateway.add(Fault(vendors.google_says(429, "rateLimitExceeded"), ...))

Files, accounts and clients of one test do not meet another's as long as each takes a folder of its own; faults do: ``reset`` takes them back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twist_dr_tests.drives.gateway import Gateway, Service, gateway
from twist_dr_tests.drives.google import GoogleDrive
from twist_dr_tests.drives.graph import CONTENT_HOST, HOST, MicrosoftGraph
from twist_dr_tests.drives.tokens import Client, TokenServer, google_tokens, microsoft_tokens

#: A registered client at each provider: Google's has a secret, Microsoft's is a public one.
GOOGLE_CLIENT = Client("tests.apps.googleusercontent.com", "google-client-secret")
MICROSOFT_CLIENT = Client("7d3c0f3e-0000-4000-8000-000000000001")


@dataclass(frozen=True)
class Cloud:
    """``google_tokens`` and ``microsoft_tokens``: whose grants; ``google`` and ``microsoft``: what is stored there; ``gateway``: faults, and all that came in."""

    gateway: Gateway
    google_tokens: TokenServer
    google: GoogleDrive
    microsoft_tokens: TokenServer
    microsoft: MicrosoftGraph

    @property
    def environment(self) -> dict[str, str]:
        return self.gateway.environment

    def reset(self) -> None:
        """Take back faults and what was set; what is stored and granted stays."""
        self.gateway.clear()
        self.google.reset()
        self.microsoft.reset()
        for tokens, client in ((self.google_tokens, GOOGLE_CLIENT), (self.microsoft_tokens, MICROSOFT_CLIENT)):
            tokens.clients = {client.id: Client(client.id, client.secret)}
            tokens.lifetime, tokens.interval, tokens.refreshes = 3600.0, 1, 0


@contextlib.contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    """Both providers behind one proxy, whose certificates are made in ``folder``."""
    from_google, from_microsoft = google_tokens(), microsoft_tokens()
    google, microsoft = GoogleDrive(from_google), MicrosoftGraph(from_microsoft)
    services: dict[str, Service] = {
        **dict.fromkeys(("www.googleapis.com", "oauth2.googleapis.com", "accounts.google.com"), google),
        **dict.fromkeys((HOST, CONTENT_HOST), microsoft),
        "login.microsoftonline.com": from_microsoft,
    }
    with gateway(services, folder) as proxy:
        vendors = Cloud(proxy, from_google, google, from_microsoft, microsoft)
        vendors.reset()
        yield vendors
