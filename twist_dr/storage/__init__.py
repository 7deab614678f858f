"""Storage targets: one module per provider behind the interface of :mod:`twist_dr.storage.base`.

What goes wrong becomes an error of ours in ``files.py`` (folders) and ``s3_errors.py`` (S3).
"""
