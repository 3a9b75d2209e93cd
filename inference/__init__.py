"""How draws are made: kernels, warm-up, and the one runner.

`sample(posterior, kernel, ...)` runs independent chains of any kernel and gives `Draws`. A run written with `run=` is
read back by `read_run`, finished or not.
"""

from .draws import Draws as Draws
from .hmc import HMC as HMC
from .hmc import NUTS as NUTS
from .kernel import Kernel as Kernel
from .sample import check_settings as check_settings
from .sample import sample as sample
from .store import read_data as read_data
from .store import read_run as read_run
