r"""Parallel tempering: chains between the prior and the posterior exchange their states, so that modes are visited.

Rung $i$ of $K$ samples $\pi_0(q) L(q)^{\beta_i}$, from the prior ($\beta_0 = 0$) to the posterior ($\beta_{K-1} = 1$).
A step exchanges states of neighbours, even pairs at even steps and odd pairs at odd ones, and then makes a step of any
kernel on every rung. The deterministic alternation makes the replicas' walk along the ladder non-reversible: they
travel instead of diffusing. A replica that comes back from the prior has forgotten its mode, so the shares of the
modes at $\beta = 1$ are the posterior's even where no chain could cross between them.

References:
    Syed, Bouchard-Côté, Deligiannidis and Doucet (2022), Non-reversible parallel tempering: a scalable highly parallel
    MCMC scheme, https://arxiv.org/abs/1905.02939.
    Okabe, Kawata, Okamoto and Mikami (2001), Replica-exchange Monte Carlo method for the isobaric-isothermal ensemble,
    https://doi.org/10.1016/S0009-2614(01)00055-0.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from .hmc import NUTS
from .kernel import Info, Kernel, MinibatchTarget, Position, TemperedTarget
from .ladder import (
    Counts,
    Rung,
    Trips,
    acceptance_log,
    equal_rejections,
    exchange_order,
    start_counts,
    start_ladder,
    start_trips,
)
from .mesh import RUNG
from .moving import check_movable, moved
from .settings import check_integer

# The ladder is adapted in rounds that double in length; the last one ends in the middle of the kernel's warm-up.
_NUM_ROUNDS = 5


class TemperingState(NamedTuple):
    """Where all rungs of a chain stand.

    Attributes:
        position: unconstrained values by site on the rung of the posterior.
        logdensity: the posterior's log density there.
        rungs: the kernel's State on each rung, leading axis rung.
        loglikelihoods: of the rungs' positions.
        betas: the ladder.
        counts: sums along the ladder.
        trips: who is where.
    """

    position: Position
    logdensity: Float[Array, ""]
    rungs: Any
    loglikelihoods: Float[Array, " rung"]
    betas: Float[Array, " rung"]
    counts: Counts
    trips: Trips


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class ParallelTempering:
    """Non-reversible parallel tempering around any kernel; the draws are those of the rung of the posterior.

    Its statistics say whether it worked: `round_trips`, how often a replica went from the prior to the posterior and
    back since warm-up; `swap_rate`, the mean over neighbours of the acceptance probability, and `rejection_rate` of
    each pair; `replica`, which replica stands on each rung; `inverse_temperature`, the ladder; `log_evidence`, the
    running estimate of the log marginal likelihood (bridge sampling between neighbours; its last draw is the best, and
    the spread over chains gives its standard error); `rungs_diverging`, how many steps of the other rungs diverged, and
    `rungs_n_steps`, the leapfrogs of all rungs.

    Args:
        kernel: makes the step on each rung, and adapts to each by itself.
        num_rungs: number of inverse temperatures, those of prior and posterior included. About twice the
            communication barrier (the sum of the rejection rates) is best.
        num_warmup: number of adapting steps; by default the kernel's own. The ladder is adapted in the first half of
            the kernel's, so that the kernel adapts to the final one.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> ParallelTempering(kernel=NUTS(num_warmup=500), num_rungs=6).num_warmup
        500
    """

    kernel: Kernel = field(default_factory=NUTS)
    num_rungs: int = 8
    num_warmup: int = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        if isinstance(self.kernel, type) or not isinstance(self.kernel, Kernel):
            raise ValueError(f"kernel must be a kernel with its settings, such as HMC(), got {self.kernel!r}.")
        if self.num_warmup is None:
            object.__setattr__(self, "num_warmup", self.kernel.num_warmup)
        check_integer("num_rungs", self.num_rungs, 2)
        check_integer("num_warmup", self.num_warmup, 0)
        if self.num_warmup < self.kernel.num_warmup:
            raise ValueError(
                f"num_warmup must cover the {self.kernel.num_warmup} adapting steps of the kernel inside, got "
                f"{self.num_warmup}; leave it out, or give the kernel fewer."
            )

    @property
    def crosses_chains(self) -> bool:
        """Whether the kernel inside reduces over chains."""
        return getattr(self.kernel, "crosses_chains", False)

    @property
    def ladder_changes(self) -> tuple[int, ...]:
        """The steps that begin with a new ladder."""
        last = (self.kernel.num_warmup or self.num_warmup) // 2
        return tuple(sorted({last >> n for n in range(_NUM_ROUNDS)} - {0}))

    def check(self, posterior: Any) -> None:
        """Refuses a target without a prior of its own, and a kernel that cannot be put elsewhere.

        Args:
            posterior: what is to be sampled.

        Raises:
            ValueError: with advice.
        """
        if not isinstance(posterior, TemperedTarget):
            raise ValueError(
                "ParallelTempering needs a target with logprior and loglikelihood, the ends of its ladder, got "
                f"{type(posterior).__name__}; wrap a NumPyro model in a Posterior."
            )
        if getattr(self.kernel, "batch_size", None) is not None and not isinstance(posterior, MinibatchTarget):
            raise ValueError("The kernel inside takes minibatches, which this target does not give; use another one.")
        check_movable(self.kernel)
        if (check := getattr(self.kernel, "check", None)) is not None:
            check(posterior)

    def init(self, rng_key: PRNGKeyArray, position: Position, target: Any) -> TemperingState:
        """State with all rungs at one position.

        Args:
            rng_key: key of the rungs' starts.
            position: unconstrained values by site.
            target: what is sampled.

        Returns:
            The state before step 0.
        """
        logdensity, loglikelihood = target.logdensity(position), target.loglikelihood(position)
        betas = jnp.asarray(start_ladder(self.num_rungs), logdensity.dtype)
        keys = jax.random.split(rng_key, self.num_rungs)
        rungs = _on_rungs(lambda key, beta: self.kernel.init(key, position, Rung(target, beta)), keys, betas)
        loglikelihoods = jnp.full_like(betas, loglikelihood)
        counts, trips = start_counts(betas), start_trips(self.num_rungs)
        return TemperingState(position, logdensity, rungs, loglikelihoods, betas, counts, trips)

    def step(
        self, rng_key: PRNGKeyArray, state: TemperingState, target: Any, t: Int[Array, ""]
    ) -> tuple[TemperingState, Info]:
        """Exchanges states of neighbours, then makes a step of the kernel on every rung.

        Args:
            rng_key: the step's key.
            state: before the step.
            target: what is sampled.
            t: the step's number, counted from the start of warm-up.

        Returns:
            The state after the step, and its statistics.
        """
        key_exchange, key_explore = jax.random.split(rng_key)
        # Before the first step of a round the ladder changes; the sums begin anew there and where warm-up ends.
        changes = jnp.isin(t, jnp.asarray(self.ladder_changes, jnp.int32))
        betas = jnp.where(changes, equal_rejections(state.betas, state.counts.rejections), state.betas)
        counts = _choose(changes | (t == self.num_warmup), start_counts(betas), state.counts)
        trips = _choose(t == self.num_warmup, start_trips(self.num_rungs, state.trips.replicas), state.trips)

        positions = jax.tree.map(lambda all_rungs, x: all_rungs.at[-1].set(x), state.rungs.position, state.position)
        log_accept = acceptance_log(betas, state.loglikelihoods)
        order = exchange_order(choose_swaps(key_exchange, log_accept, t))
        positions, trips = jax.tree.map(lambda x: x[order], positions), trips.exchange(order)
        stays = (order == jnp.arange(self.num_rungs)) & ~changes

        def explore(key: Array, rung: Any, position: Position, beta: Array, stays: Array) -> Any:
            at_rung = Rung(target, beta)
            there = jax.lax.cond(
                stays,
                lambda: rung._replace(position=position),
                lambda: moved(self.kernel, rung, position, at_rung),
            )
            rung, info = self.kernel.step(key, there, at_rung, t)
            return rung, info, target.loglikelihood(rung.position)

        keys = jax.random.split(key_explore, self.num_rungs)
        rungs, infos, loglikelihoods = _on_rungs(explore, keys, state.rungs, positions, betas, stays)
        counts = counts.add(betas, loglikelihoods, -jnp.expm1(log_accept))
        coldest = jax.tree.map(lambda x: x[-1], rungs)
        state = TemperingState(coldest.position, coldest.logdensity, rungs, loglikelihoods, betas, counts, trips)
        return state, _info(infos, state, log_accept)

    def moved(self, state: TemperingState, position: Position, target: Any) -> TemperingState:
        """The State with the rung of the posterior at another position.

        Args:
            state: before the move.
            position: where to.
            target: what is sampled.

        Returns:
            The State at the position.
        """
        coldest = jax.tree.map(lambda x: x[-1], state.rungs)
        coldest = moved(self.kernel, coldest, position, Rung(target, state.betas[-1]))
        return state._replace(
            position=position,
            logdensity=coldest.logdensity,
            rungs=jax.tree.map(lambda x, one: x.at[-1].set(one), state.rungs, coldest),
            loglikelihoods=state.loglikelihoods.at[-1].set(target.loglikelihood(position)),
        )


def choose_swaps(rng_key: PRNGKeyArray, log_accept: Float[Array, " pair"], t: Int[Array, ""]) -> Bool[Array, " pair"]:
    """Which pairs of neighbours exchange their states: of the even pairs at even steps, of the odd ones at odd steps.

    Args:
        rng_key: key of the decisions.
        log_accept: log probability of each exchange.
        t: the step's number.

    Returns:
        Whether each pair does.
    """
    pairs = jnp.arange(log_accept.size)
    # 1 - u lies in (0, 1]: an exchange of probability 0 is never made.
    chance = jnp.log1p(-jax.random.uniform(rng_key, log_accept.shape, log_accept.dtype))
    return (pairs % 2 == t % 2) & (chance < log_accept)


def _info(infos: Info, state: TemperingState, log_accept: Float[Array, " pair"]) -> Info:
    """The statistics of the posterior's rung, and those of the ladder."""
    of_ladder = {
        "lp": state.logdensity,
        "swap_rate": jnp.mean(jnp.exp(log_accept)),
        "rejection_rate": -jnp.expm1(log_accept),
        "round_trips": state.trips.num_round_trips,
        "replica": state.trips.replicas,
        "inverse_temperature": state.betas,
        "log_evidence": state.counts.log_evidence,
    }
    if "diverging" in infos:
        of_ladder["rungs_diverging"] = jnp.sum(infos["diverging"][:-1].astype(jnp.int32))
    if "n_steps" in infos:
        of_ladder["rungs_n_steps"] = jnp.sum(infos["n_steps"])
    return {name: values[-1] for name, values in infos.items()} | of_ladder


def _on_rungs(function: Callable[..., Any], *arguments: Any) -> Any:
    """Applies a function to every rung, each device to its own where a mesh deals them out.

    One after the other on a CPU, where batched products waste it, else at once.
    """

    def apply(arguments: Any) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda one: function(*one), arguments)
        return jax.vmap(function)(*arguments)

    try:
        num_parts = jax.lax.axis_size(RUNG)
    except NameError:  # no mesh, or one without an axis of rungs
        return apply(arguments)
    each = len(jax.tree.leaves(arguments)[0]) // num_parts
    begin = each * jax.lax.axis_index(RUNG)
    own = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, each), arguments)
    return jax.tree.map(lambda x: jax.lax.all_gather(x, RUNG, tiled=True), apply(own))


def _choose[Tree](condition: Array, yes: Tree, no: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
