"""What the draws say: ArviZ trees, canonical weights, convergence at four levels, and the verdict."""

from .convergence import Convergence as Convergence
from .convergence import convergence as convergence
from .datatree import to_datatree as to_datatree
from .overview import summary as summary
from .problems import Diagnosis as Diagnosis
from .problems import diagnose as diagnose
from .quotient import canonicalize as canonicalize
from .storage import SYMMETRIES_FILE as SYMMETRIES_FILE
from .storage import load as load
from .storage import open_run as open_run
from .storage import save as save
from .storage import save_run as save_run
from .verdict import Label as Label
from .verdict import State as State
from .verdict import Verdict as Verdict
from .verdict import verdict as verdict
