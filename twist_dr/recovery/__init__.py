"""Recovery to a point: from a base backup and archived WAL to a server that is proved to be what was asked for."""
