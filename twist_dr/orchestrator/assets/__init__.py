"""What exists, and where it comes from: the application's parts, backups of them, copies of those, and the proof."""
