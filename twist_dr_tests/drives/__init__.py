"""Google Drive and Microsoft Graph for tests: servers of our own, reached as the real ones are.

``cloud.py`` starts them all. A program that is given ``Cloud.environment`` talks to an HTTP proxy on loopback, which answers CONNECT and ends TLS
with a CA of the tests: host names, paths, tokens and certificates are checked as on the real services. What they answer is what the vendors' pages
say, and rclone's source relies on. The vendors' own services were not reached.
"""
