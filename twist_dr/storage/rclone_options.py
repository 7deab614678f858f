"""What a provider that rclone carries says of itself: the base class of its settings, and what rclone must be told of such a place."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from twist_dr.storage.options import PREFIX_WORDS, TargetOptions, spelled

if TYPE_CHECKING:
    from twist_dr.storage.machine import Machine
    from twist_dr.storage.rclone_session import RcloneLimits
    from twist_dr.storage.rclone_target import RcloneTarget

#: The part of a bucket.
BucketPrefix = Annotated[
    str, spelled(r"(\.*[A-Za-z0-9_-][A-Za-z0-9._-]*(/\.*[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?", PREFIX_WORDS)
]
#: A folder on a remote. No bracket ends one: rclone's addresses of objects to read have the folder between brackets.
RemotePath = Annotated[str, spelled(r"[^\[\]\x00-\x1f]*", "a folder, without brackets and line ends")]


class FreshToken(Protocol):
    """Gives an access token and when it ends (UTC). ``refused``: one that the provider no longer takes. Raises ``TargetReauthorize`` and ``TargetUnavailable``."""

    def __call__(self, refused: str | None = None) -> tuple[str, datetime]: ...


@dataclass(frozen=True)
class RcloneRemote:
    """A remote as rclone knows it. ``kind``: its name of the provider; ``parameters`` go over the socket and may hold secrets, passwords as they are.

    ``path``: the target's folder there; ``configuration``: a file with the remote ``name``, in the place of kind and parameters, and what opens it.
    """

    kind: str
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    path: str = ""
    name: str = "target"
    configuration: Path | None = None
    configuration_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Traits:
    """What a kind of place is like.

    ``staged``: objects are sent under a temporary name and then moved; else they appear at once and whole under their own, as in a bucket.
    ``hash``: rclone's name of the digest that the provider computes over what it holds, and that is believed; None: what was stored is read back.
    """

    staged: bool = True
    hash: str | None = None
    #: Names that differ in the case of letters only are one.
    case_insensitive: bool = False
    #: Folders go by ids that outlive their names, and rclone keeps them.
    folder_ids: bool = False
    #: Characters of a key with the target's own folder before it; bytes of an object.
    longest_path: int | None = None
    largest_object: int | None = None
    #: What rclone has of the provider itself tries each request again, for some ten seconds.
    retries: bool = False
    #: What a person should know of it, as sentences.
    notes: tuple[str, ...] = ()


class RcloneOptions(TargetOptions):
    """A place that rclone carries."""

    #: What it is like.
    traits: ClassVar[Traits] = Traits()
    #: How messages name such a place: ``the server``.
    noun: ClassVar[str] = "the server"

    @property
    def backend(self) -> RcloneRemote:
        """How rclone gets there. No I/O."""
        raise NotImplementedError

    @property
    def place(self) -> Hashable | None:
        """Also what the lock is called by, under which all processes of this machine move objects there."""
        raise NotImplementedError

    def access_tokens(self, name: str, machine: Machine) -> FreshToken | None:
        """Where its access tokens come from; None where it has none, or keeps them itself."""
        from twist_dr.storage.oauth import AccessTokens

        client = self.oauth
        return None if client is None else AccessTokens(client, machine.grants, name).fresh

    def found(self, name: str, access_token: str | None) -> Mapping[str, str]:
        """Parameters that only the provider knows, asked for once, when rclone is told. Raises storage errors."""
        return {}

    def build(self, name: str, machine: Machine) -> RcloneTarget:
        # Not above: all providers are loaded with the settings, and few of them are used.
        from twist_dr.storage.rclone_session import RcloneLimits

        return self.target(name, machine, RcloneLimits())

    def target(self, name: str, machine: Machine, limits: RcloneLimits) -> RcloneTarget:
        """What keeps the contract there."""
        from twist_dr.storage.rclone_target import RcloneTarget

        return RcloneTarget(name, self, machine, limits)
