"""What the files of a backup are called: by this alone, what lies in a folder without a manifest is known for ours."""

from __future__ import annotations

import re

from twist_dr.repository.kinds import KINDS

_ARTIFACT = re.compile("|".join(each.artifacts for each in KINDS.values()))
_STORED = re.compile(rf"manifest\.json|(?:{_ARTIFACT.pattern})(?:(?:\.[0-9]{{1,2}})?(?:\.zst|\.gz))?(?:\.enc)?")


def is_artifact_name(text: str) -> bool:
    """Whether a backup of any kind can have an artifact of this name."""
    return bool(_ARTIFACT.fullmatch(text))


def is_stored_name(text: str) -> bool:
    """Whether an object in a backup's folder can have this name, the manifest's among them."""
    return bool(_STORED.fullmatch(text))
