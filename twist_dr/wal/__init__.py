"""Write-ahead log: names, checks, the archive on a storage target, the spool, shipping and receiving."""
