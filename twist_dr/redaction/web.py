"""Addresses on the web, read strictly: what lies before a bare ``@`` may be a password, and is taken for a server by some and not by others."""

from __future__ import annotations

import re

_ADDRESS = re.compile(
    r"(?P<scheme>https?://)(?P<login>[^@/?#\s]*@)?(?P<place>(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s\\]+)(?::[0-9]{1,5})?)(?P<path>[^?#@\s]*)(?:[?#][^@\s]*)?",
    re.IGNORECASE,
)


def is_web_address(url: str, *, login: bool = False) -> bool:
    """Whether it means the same to everybody. ``login``: it may hold user and password."""
    found = _ADDRESS.fullmatch(url)
    return found is not None and (login or found["login"] is None)


def web_place(url: str) -> str:
    """Server and path of an address, for people: without user, password and options, which may hold a token."""
    found = _ADDRESS.fullmatch(url)
    return "the address" if found is None else f"{found['scheme']}{found['place']}{found['path']}"
