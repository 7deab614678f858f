"""SQL scripts that pg_dumpall or pg_restore wrote, divided into their statements as the server would divide them.

Never by lines: a comment, a name or a body of a function holds whatever its owner put into it, line breaks and semicolons included.
The rules are those of the server and of psql (PostgreSQL, "Lexical Structure", and psqlscan.l), with standard_conforming_strings on,
as both programs set it. Rows of COPY ... FROM stdin are no SQL and must not be in the script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: An identifier as it stands in SQL, quoted or not.
NAME = rb'(?:"(?:[^"]|"")*"|[^" ;]+)'
#: What is no statement, between two: space, comments, and orders to psql (\restrict, \connect), which end with their line.
_BETWEEN = re.compile(rb"(?:\s+|--[^\n]*|\\[^\n]*)*")
_TOKEN = re.compile(
    rb"""(?P<quoted>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)        # a string with backslashes
               | '[^']*(?:'|\Z) | "[^"]*(?:"|\Z)           # a quote inside is doubled: it closes and opens again
               | --[^\n]*)
       | (?P<comment>/\*)
       | \$(?P<tag>(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?)\$
       | (?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)
       | (?P<mark>[();])
       | [0-9$]+ | [^'"();$/A-Za-z_\x80-\xff0-9-]+ | .""",
    re.VERBOSE | re.DOTALL,
)
_ARRAY_CAST = re.compile(rb'\)::((?:"(?:[^"]|"")*"|[A-Za-z_0-9$. \x80-\xff]|\([0-9, ]*\))+)\[\]')
_COMMENT_MARK = re.compile(rb"/\*|\*/")
#: Statements whose body may be SQL of its own between BEGIN ATOMIC and END (PostgreSQL, "CREATE FUNCTION", sql_body).
_ROUTINE = re.compile(rb"(?i)CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\s")


def statements(script: bytes) -> Iterator[bytes]:
    """The statements one by one, each with its semicolon, without comments and orders to psql before it.

    What follows the last semicolon is given too, if it is anything: who runs the statements is then told by the server.
    """
    for begin, end in spans(script):
        yield script[begin:end]


def spans(script: bytes) -> Iterator[tuple[int, int]]:
    """Where each statement begins and ends."""
    end = 0
    while (begin := _begin(script, end)) < len(script):
        end = _end(script, begin)
        yield begin, end


def unquoted(identifier: bytes) -> str:
    """The name that an identifier in SQL stands for."""
    text = identifier.decode(errors="surrogateescape")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def without_texts(statement: bytes) -> bytes:
    """A statement of pg_dump's without what its strings and bodies hold: what is left was written by the program, names aside."""
    kept = []
    for found, _ in _tokens(statement):
        if found["tag"] is not None or (found["quoted"] and found[0][:1] != b'"'):
            kept.append(b"''")
        elif not found["comment"]:
            kept.append(found[0])
    return b"".join(kept)


def divided(script: bytes, place: int) -> tuple[list[bytes], int]:
    """What stands between the bracket at ``place`` and its partner, divided at its own commas, and where that partner is.

    Raises ``ValueError`` where there is none.
    """
    pieces, depth, begin = [], 0, place + 1
    for found, _ in _tokens(script, place):
        if found["quoted"] or found["comment"] or found["tag"] is not None or found["word"]:
            continue
        for at, mark in enumerate(found[0], found.start()):
            depth += (mark in b"([") - (mark in b")]")
            if not depth or (mark in b"," and depth == 1):
                pieces.append(script[begin:at])
                begin = at + 1
            if not depth:
                return pieces, at
    raise ValueError("a bracket is not closed")


def casting_elements(definition: bytes) -> bytes:
    """A definition in which each cast of an array's constructor stands at its elements.

    ``(ARRAY[a, b])::text[]`` is the same as ``ARRAY[(a)::text, (b)::text]`` (PostgreSQL, "Array Constructors"), and a server writes the second of what it read
    as the first: so does one that restored ``CHECK (status IN ('a', 'b'))`` of a varchar.
    """
    kept, done, looked = [], 0, 0
    for found, _ in _tokens(definition) if b"(ARRAY[" in definition else ():
        begin = found.start() - 1
        if found["word"] != b"ARRAY" or begin < looked or definition[begin : found.end() + 1] != b"(ARRAY[":
            continue
        try:
            elements, looked = divided(definition, found.end())
        except ValueError:
            break
        if (cast := _ARRAY_CAST.match(definition, looked + 1)) and not any(b"ARRAY[" in each for each in elements):
            cast_elements = b", ".join(b"(%s)::%s" % (each.strip(), cast[1]) for each in elements)
            kept.append(definition[done:begin] + b"ARRAY[" + cast_elements + b"]")
            done = cast.end()
    return b"".join([*kept, definition[done:]])


def _tokens(script: bytes, place: int = 0) -> Iterator[tuple[re.Match[bytes], int]]:
    """What a script is made of, and where each ends: a comment, and a string between dollars, with all that is in it."""
    while found := _TOKEN.match(script, place):
        place = found.end()
        if found["comment"]:
            place = _end_of_comment(script, found.start())
        elif found["tag"] is not None:
            closing = script.find(found[0], place)
            place = len(script) if closing < 0 else closing + len(found[0])
        yield found, place


def _begin(script: bytes, place: int) -> int:
    while True:
        found = _BETWEEN.match(script, place)
        assert found is not None
        place = found.end()
        if not script.startswith(b"/*", place):
            return place
        place = _end_of_comment(script, place)


def _end(script: bytes, place: int) -> int:
    parentheses = blocks = 0
    routine = _ROUTINE.match(script, place) is not None
    for found, end in _tokens(script, place):
        if found["mark"] == b";":
            if parentheses <= 0 and not blocks:
                return end
        elif found["mark"]:
            parentheses += 1 if found["mark"] == b"(" else -1
        elif routine and found["word"]:
            word = found["word"].upper()
            if word == b"BEGIN" or (word == b"CASE" and blocks):
                blocks += 1
            elif word == b"END" and blocks:
                blocks -= 1
    return len(script)


def _end_of_comment(script: bytes, place: int) -> int:
    """Comments nest."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(script, place):
        depth += 1 if mark[0] == b"/*" else -1
        if not depth:
            return mark.end()
    return len(script)
