r"""A diagonal preconditioner from the gradients that were seen, adapted in warm-up and then frozen.

The running mean square of the gradient, $v \leftarrow \beta v + (1 - \beta) g^2$, gives

$$ G_{ii} \propto \frac{1}{\sqrt{v_i} + \lambda \, \overline{\sqrt{v}}}, \qquad \textstyle\prod_i G_{ii} = 1, $$

so that the step size keeps its meaning. A $G$ that went on following the position would need the correction
$\Gamma_i = \sum_j \partial_j G_{ij}$ in the drift, without which the chain samples something else (Ma et al. 2015);
this one is constant after warm-up, and a constant $G$ leaves the invariant distribution as it is.

References:
    Li et al. (2016), Preconditioned stochastic gradient Langevin dynamics, https://arxiv.org/abs/1512.07666.
    Ma, Chen and Fox (2015), A complete recipe for stochastic gradient MCMC, https://arxiv.org/abs/1506.04696.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .settings import check_between


class Preconditioning(NamedTuple):
    """State of a preconditioner.

    Attributes:
        scale: the diagonal of G.
        mean_square: running mean square of the gradient, biased towards its start at 0.
        num_gradients: gradients in it.
    """

    scale: Float[Array, " dim"]
    mean_square: Float[Array, " dim"]
    num_gradients: Float[Array, ""]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class RMSprop:
    r"""The preconditioner of the module's docstring.

    Args:
        decay: $\beta$.
        damping: $\lambda$, relative to the mean root: it bounds G where there is no gradient.

    Raises:
        ValueError: a setting is not in (0, 1).

    Example:
        >>> RMSprop()
        RMSprop(decay=0.99, damping=0.01)
    """

    decay: float = 0.99
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_between("decay", self.decay, 0.0, 1.0)
        check_between("damping", self.damping, 0.0, 1.0)

    def adapt(self, state: Preconditioning, gradient: Float[Array, " dim"]) -> Preconditioning:
        """One gradient more.

        Args:
            state: before it.
            gradient: of the log density or of its estimate, flat; one that is not finite is left out.

        Returns:
            The state after it.
        """
        count = state.num_gradients + 1
        mean_square = self.decay * state.mean_square + (1 - self.decay) * gradient**2
        root = jnp.sqrt(mean_square / (1 - self.decay**count))
        # The tiny number serves a gradient of zeros alone.
        damped = root + self.damping * root.mean() + jnp.finfo(root.dtype).tiny
        scale = jnp.exp(jnp.log(damped).mean() - jnp.log(damped))
        adapted = Preconditioning(scale, mean_square, count)
        is_usable = jnp.isfinite(scale).all()
        return Preconditioning(*(jnp.where(is_usable, a, b) for a, b in zip(adapted, state, strict=True)))


def start_preconditioning(position: Float[Array, " dim"]) -> Preconditioning:
    """The unit matrix.

    Args:
        position: flat position; only its shape and dtype count.

    Returns:
        The state before any gradient.
    """
    zero = jnp.zeros((), position.dtype)
    return Preconditioning(jnp.ones_like(position), jnp.zeros_like(position), zero)
