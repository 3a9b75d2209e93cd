"""What cannot be told apart: symmetry groups read off a model, their action, and canonical representatives.

``find_symmetries`` finds the group, ``balance`` and ``align`` choose elements of it, and ``SymmetryGroup.act`` is the
one way in which weights change.
"""

from typing import TYPE_CHECKING, Any

from .align import Alignment as Alignment
from .align import align as align
from .align import barycentre as barycentre
from .align import orbit_distance as orbit_distance
from .balance import MinMass as MinMass
from .balance import balance as balance
from .balance import min_mass as min_mass
from .group import Broken as Broken
from .group import Certificate as Certificate
from .group import Element as Element
from .group import Factor as Factor
from .group import Pin as Pin
from .group import Slot as Slot
from .group import Symmetries as Symmetries
from .group import SymmetryGroup as SymmetryGroup

if TYPE_CHECKING:
    from .discovery import find_symmetries as find_symmetries


def __getattr__(name: str) -> Any:
    # The analyser is imported when it is first used: a stored group is read and applied without it.
    if name == "find_symmetries":
        from .discovery import find_symmetries

        return find_symmetries
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
