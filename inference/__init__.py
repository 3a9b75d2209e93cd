"""How draws are made: kernels, warm-up, and the one runner.

`sample(posterior, kernel, ...)` runs independent chains of any kernel and gives `Draws`. A run written with `run=` is
read back by `read_run`, finished or not, and goes on by `resume`.
"""

from .chees import ChEES as ChEES
from .draws import Draws as Draws
from .draws import Keep as Keep
from .ghmc import GHMC as GHMC
from .hmc import HMC as HMC
from .hmc import NUTS as NUTS
from .kernel import Kernel as Kernel
from .mala import MALA as MALA
from .mclmc import MCLMC as MCLMC
from .mclmc import AdjustedMCLMC as AdjustedMCLMC
from .orbit_moves import WithOrbitMoves as WithOrbitMoves
from .preconditioning import RMSprop as RMSprop
from .resume import resume as resume
from .sample import check_settings as check_settings
from .sample import sample as sample
from .schedules import Constant as Constant
from .schedules import Cyclical as Cyclical
from .schedules import Polynomial as Polynomial
from .sgmcmc import SGD as SGD
from .sgmcmc import SGHMC as SGHMC
from .sgmcmc import SGLD as SGLD
from .sgmcmc import SGNHT as SGNHT
from .stored import read_data as read_data
from .stored import read_manifest as read_manifest
from .stored import read_run as read_run
from .subsampled import SubsampledHMC as SubsampledHMC
from .tempering import ParallelTempering as ParallelTempering
