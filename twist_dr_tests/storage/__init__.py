"""Tests of the storage targets: real folders, real mounts, real S3 servers on loopback."""
