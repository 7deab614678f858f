"""What a provider of storage targets says of itself: its settings, and whatever others ask of any target without knowing which it is.

A provider is a module of this package with a :class:`StorageTarget` and a class of :class:`TargetOptions`, whose field ``type`` has its name. Being
there registers it: no other file knows of it.
"""

from __future__ import annotations

import os
import pkgutil
import re
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

import twist_dr.storage
from twist_dr.redaction.web import is_web_address

if TYPE_CHECKING:
    from twist_dr.storage.base import StorageTarget
    from twist_dr.storage.machine import Machine
    from twist_dr.storage.oauth import OAuthClient

PREFIX_WORDS = "folders of letters, digits, '.', '_' and '-', with a slash between two and at no end"


class Section(BaseModel):
    """A part of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def absolute(path: Path, info: ValidationInfo) -> Path:
    """A path from the folder of the settings' file on."""
    return seen_from(Path((info.context or {}).get("folder", Path.cwd())), path)


def seen_from(folder: Path, path: Path) -> Path:
    """The same for a folder that is known."""
    # os.path's leaves an unknown ~user as it is, where pathlib's raises.
    return Path(os.path.normpath(folder / os.path.expanduser(path)))


def _web_address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("a text that begins with http:// or https://")
    if not is_web_address(url):
        raise ValueError("http://host:port/path, without user and password, and with %40 for an @")
    return url


def spelled(pattern: str, words: str) -> AfterValidator:
    """That all of a text is like ``pattern``, which ``words`` say to people."""

    def look(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(words)
        return text

    return AfterValidator(look)


SettingsPath = Annotated[Path, AfterValidator(absolute)]
#: An address that is called without a login.
WebAddress = Annotated[str, AfterValidator(_web_address)]


class TargetOptions(Section):
    """A provider's settings of a target. Construction and all that is asked here do no I/O."""

    # Built with the settings as a whole, once, and not for each class by itself.
    model_config = ConfigDict(defer_build=True)

    #: What its copies are drawn as on the lineage page.
    asset_kind: ClassVar[str] = "file"
    #: Whether its store keeps objects in classes that can be changed.
    has_storage_classes: ClassVar[bool] = False
    #: Of URLs that name such a target to ``twist-dr recover``; None where it has none.
    scheme: ClassVar[str | None] = None
    #: How such a URL looks.
    url_form: ClassVar[str] = ""
    #: Settings that such a URL leaves to variables of the environment, by their names.
    url_variables: ClassVar[Mapping[str, str]] = {}
    #: What somebody does whose credentials are refused, and who has no settings to put them in.
    credentials_remedy: ClassVar[str] = ""
    #: Bytes that the provider takes of one user within 24 hours; None where it sets no such limit.
    daily_upload_limit: ClassVar[int | None] = None
    #: A drive of people, who share folders by a link and lose their passwords: what lies there unencrypted is soon read by others. An
    #: object costs half a second there, however small it is.
    consumer: ClassVar[bool] = False

    type: str

    @property
    def folder(self) -> Path | None:
        """The folder that it is; None where it is none."""
        return None

    @property
    def place(self) -> Hashable | None:
        """The same for two targets that are one; None where only its folder tells."""
        return None

    @property
    def oauth(self) -> OAuthClient | None:
        """The client by which the owner of an account lets us use it; None where no owner is asked."""
        return None

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """Files of this machine that it reads, and that hold a secret."""
        return ()

    @property
    def trusted_files(self) -> tuple[Path, ...]:
        """Files of this machine that it reads and goes by, without a secret."""
        return ()

    @property
    def called(self) -> str:
        """Where it is, for messages about a target that has no name."""
        return str(self.folder or self.type)

    @classmethod
    def of_url(cls, url: str) -> dict[str, Any]:
        """The options that a URL of :attr:`scheme` stands for, not yet looked at. Raises ``SettingsError``, which shows no part of it that may be a secret."""
        raise NotImplementedError

    def build(self, name: str, machine: Machine) -> StorageTarget:
        """The target of that name, as used from this machine. Raises ``ValueError`` when options do not go together."""
        raise NotImplementedError


@cache
def providers() -> dict[str, type[TargetOptions]]:
    """All providers by the name of their type: those whose modules lie in this package."""
    for module in pkgutil.iter_modules(twist_dr.storage.__path__):
        # What is named after a provider is a part of it.
        if "_" not in module.name:
            import_module(f"{twist_dr.storage.__name__}.{module.name}")
    ours = [kind for kind in _below(TargetOptions) if kind.__module__.startswith(twist_dr.storage.__name__)]
    named = {get_args(kind.model_fields["type"].annotation): kind for kind in ours}
    # What providers have in common names none.
    return {names[0]: kind for names, kind in named.items() if names}


def _below(kind: type[TargetOptions]) -> Iterator[type[TargetOptions]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def url_forms() -> str:
    """How URLs of storage targets look, for people."""
    return ", ".join(each.url_form for each in providers().values() if each.url_form)
