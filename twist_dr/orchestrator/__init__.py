"""All of Dagster: what exists, what someone launches, what happens by itself, and what every step does around its work."""
