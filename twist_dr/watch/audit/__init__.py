"""The audit log: every launch, restore, deletion, hold, change of settings and use of a key, chained line to line."""

from twist_dr.watch.audit.log import audit_anchor, fingerprint, key_used, note_key_use, note_settings, noting, record

__all__ = ["audit_anchor", "fingerprint", "key_used", "note_key_use", "note_settings", "noting", "record"]
