"""The settings as plans: where a verification restores to, and how client tools are proven before a backup. Proofs are in ``verify/``."""

from __future__ import annotations

from twist_dr.backup.tools_proof import ToolsProof
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.verification_place import VerificationPlan
from twist_dr.settings.whole import Settings


def verification_plan(settings: Settings, live: Cluster) -> VerificationPlan:
    wanted = settings.verification
    return VerificationPlan(
        scratch=settings.scratch_dir,
        live=live,
        server=Cluster(wanted.server.get_secret_value()) if wanted.server else None,
        key_tables=wanted.key_tables,
        jobs=wanted.jobs,
        client_tools=settings.database.client_tools,
        isolation=wanted.isolation,
        content=wanted.content,
        show_rows=wanted.show_rows,
    )


def tools_proof(settings: Settings) -> ToolsProof:
    live = Cluster(settings.database.url.get_secret_value())
    return ToolsProof(verification_plan(settings, live), settings.work_dir / "proven-tools" / settings.application)
