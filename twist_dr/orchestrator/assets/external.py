"""The application itself: what backups are made of. Nothing here is made by us, so lineage starts here."""

from __future__ import annotations

import dagster as dg

from twist_dr.settings import Settings


def external_assets(settings: Settings) -> list[dg.AssetSpec]:
    """Database, media and configuration as they are outside."""
    application = settings.application

    def spec(name: str, description: str, kinds: set[str]) -> dg.AssetSpec:
        return dg.AssetSpec([application, name], description=description, group_name="application", kinds=kinds)

    specs = [spec("database", f"The PostgreSQL database of {application}.", {"postgres"})]
    if settings.media:
        specs.append(
            spec("media", "Uploaded files: " + ", ".join(str(path) for path in settings.media.values()), {"file"})
        )
    if settings.configuration:
        specs.append(spec("configuration", "Configuration files: " + ", ".join(settings.configuration), {"yaml"}))
    return specs
