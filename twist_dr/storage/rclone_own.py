"""A remote that only rclone knows: what it is like is asked, not said."""

from __future__ import annotations

from functools import cached_property

from twist_dr.errors import TargetRefused
from twist_dr.storage.rclone_options import Traits
from twist_dr.storage.rclone_target import RcloneTarget


class OwnRemoteTarget(RcloneTarget):
    """The remote that ``options`` say."""

    def prepare(self) -> None:
        # What cannot be used is refused before anything is made there.
        _ = self.traits
        super().prepare()

    @cached_property
    def traits(self) -> Traits:
        """Raises ``TargetRefused`` where an object could be seen before all of it is there."""
        whole = f"{self.options.backend.name}:"  # its folder need not be there yet
        answer = self.session.ask("ask what the remote can do", lambda calls: calls.call("operations/fsinfo", fs=whole))
        can = answer["Features"]
        if not can["BucketBased"] and not can["Move"] and not can["Copy"]:
            raise TargetRefused(
                f"the remote ({answer['String'].partition(':')[0]}) can neither rename nor copy what was sent, so half of an object would look like one",
                remedy="use another kind of remote",
                target=self.name,
            )
        return Traits(
            staged=not can["BucketBased"], case_insensitive=can["CaseInsensitive"], folder_ids=can["DirCacheFlush"]
        )
