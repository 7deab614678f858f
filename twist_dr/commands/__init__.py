"""The commands of twist-dr that are groups of their own: each module adds them to the parser, and imports what they need when they run."""
