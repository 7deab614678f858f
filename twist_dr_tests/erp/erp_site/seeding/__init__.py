"""How the sample data is made: rows inside PostgreSQL, files here."""
