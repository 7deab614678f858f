"""Storage targets: one module per provider behind the interface of :mod:`twist_dr.storage.base`. No Dagster here."""
