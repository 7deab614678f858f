"""``make prove``: a public Django application from the package registry goes through the README word for word."""
