"""What was found while files were archived, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from twist_dr.repository.attributes import NotKept
from twist_dr.system.words import shown

#: So many paths are named per finding; a manifest is no list of files, and nobody reads the hundred-and-first.
_MOST_NAMED = 100


@dataclass
class ArchiveReport:
    """What was found while archiving. Paths are those in the archive."""

    files: int = 0
    bytes: int = 0
    vanished: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    leading_outside: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    not_kept: NotKept = field(default_factory=NotKept)
    damage: list[str] = field(default_factory=list)
    """Sentences about what would have ended a backup that does not take things as they are."""

    def left_out(self, part: str) -> list[str]:
        """What of the files is not in the archive, a sentence each."""
        return [f"{part}: {sentence}" for sentence in self.not_kept.sentences()[:_MOST_NAMED]]

    def warnings(self, part: str) -> list[str]:
        """One sentence per path, for manifest and log; one for all the others where a finding has many."""
        findings = [
            (self.vanished, "vanished while the backup was made", "files vanished while the backup was made"),
            (self.changed, "changed while it was read", "files changed while they were read"),
            (
                self.skipped,
                "is neither file, folder nor link and was left out",
                "files are neither file, folder nor link and were left out",
            ),
            (
                self.leading_outside,
                "is a link that leads outside; its target is not in the backup",
                "files are links that lead outside; their targets are not in the backup",
            ),
            (self.empty, "holds no files", "folders hold no files"),
        ]
        sentences = [f"{part}: {sentence}" for sentence in self.damage[:_MOST_NAMED]]
        if (more := len(self.damage) - _MOST_NAMED) > 0:
            sentences.append(f"{part}: {more} more could not be read and are not in this backup")
        sentences += self.left_out(part)
        for paths, of_one, of_more in findings:
            sentences += [f"{part}: {shown(path)} {of_one}" for path in sorted(paths)[:_MOST_NAMED]]
            if len(paths) > _MOST_NAMED:
                sentences.append(f"{part}: {len(paths) - _MOST_NAMED} more {of_more}")
        return sentences
