"""Every reader of bytes from outside, given whatever bytes: it ends soon, in bounded memory, with an answer or with an error of ours.

``readers.py`` names them with a good example each; ``inputs.py`` makes bad ones of these; ``__main__.py`` runs them, each in a child
with a limit on its memory and its time. CI tries a few hundred, the same ones each time; ``make fuzz`` tries new ones for hours.

Hypothesis, and not atheris: it is here already, runs on every Python and processor that we do, shrinks what it finds to what a
person understands, and makes documents by their structure, where coverage of bytes would take days to find a valid MAC or checksum.
"""
