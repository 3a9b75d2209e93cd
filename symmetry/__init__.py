"""What cannot be told apart: symmetry groups read off a model, their action, and canonical representatives.

``find_symmetries`` finds the group, ``balance`` and ``align_to`` choose elements of it, and ``SymmetryGroup.act`` is
the one way in which weights change.
"""

from typing import TYPE_CHECKING, Any

from .action import Element as Element
from .activation_matching import match_activations as match_activations
from .align import Alignment as Alignment
from .align import align_to as align_to
from .align import barycentre as barycentre
from .align import orbit_distance as orbit_distance
from .balance import MinMass as MinMass
from .balance import balance as balance
from .balance import min_mass as min_mass
from .density_balance import balance_density as balance_density
from .factor import ISOMETRIES as ISOMETRIES
from .factor import Certificate as Certificate
from .factor import Factor as Factor
from .factor import Pin as Pin
from .factor import Shift as Shift
from .factor import Slot as Slot
from .group import SymmetryGroup as SymmetryGroup
from .symmetries import Broken as Broken
from .symmetries import Symmetries as Symmetries

if TYPE_CHECKING:
    from .discovery import Completeness as Completeness
    from .discovery import check_completeness as check_completeness
    from .discovery import find_symmetries as find_symmetries

_ANALYSER = ("Completeness", "check_completeness", "find_symmetries")


def __getattr__(name: str) -> Any:
    # The analyser is imported when it is first used: a stored group is read and applied without it.
    if name in _ANALYSER:
        from . import discovery

        return getattr(discovery, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
