"""One cheap instance of every kernel, for the laws that all of them keep."""

from typing import Any

from inference import (
    GHMC,
    HMC,
    MALA,
    MCLMC,
    NUTS,
    SGD,
    SGHMC,
    SGLD,
    SGNHT,
    AdjustedMCLMC,
    ChEES,
    Cyclical,
    ParallelTempering,
    RMSprop,
    SubsampledHMC,
    WithOrbitMoves,
)
from symmetry import Symmetries, SymmetryGroup

KERNELS: dict[str, Any] = {
    "mclmc": MCLMC(num_warmup=40, num_integration_steps=3),
    "adjusted mclmc": AdjustedMCLMC(num_warmup=40),
    "sghmc": SGHMC(num_warmup=40, step_size=0.1, preconditioner=RMSprop()),
    "sgld": SGLD(num_warmup=40, step_size=0.02, schedule=Cyclical(num_steps=20), preconditioner=RMSprop()),
    "sgd": SGD(num_warmup=40, step_size=0.05, batch_size=2),
    "sgld, batches": SGLD(num_warmup=40, step_size=0.02, batch_size=3),
    "subsampled hmc": SubsampledHMC(num_warmup=40, step_size=0.1, num_integration_steps=3, batch_size=2),
    "sgnht": SGNHT(num_warmup=40, step_size=0.1, num_integration_steps=2),
    "tempering": ParallelTempering(kernel=HMC(num_warmup=40, num_integration_steps=3), num_rungs=3),
    "orbit moves": WithOrbitMoves(
        kernel=HMC(num_warmup=40, num_integration_steps=6),
        symmetries=Symmetries(None, SymmetryGroup({"x": (3,), "scale": ()})),
    ),
    "hmc": HMC(num_warmup=40, num_integration_steps=6),
    "hmc, length found": HMC(num_warmup=40, longest=32),
    "hmc, geometric, dense": HMC(num_warmup=40, num_integration_steps=4, lengths="geometric", metric="dense"),
    "mala": MALA(num_warmup=40, metric="diagonal"),
    "ghmc": GHMC(num_warmup=40),
    "chees": ChEES(num_warmup=40, longest=32),
    "nuts": NUTS(num_warmup=40, max_tree_depth=5),
    "nuts, low-rank": NUTS(num_warmup=40, max_tree_depth=4, metric="low_rank"),
}
