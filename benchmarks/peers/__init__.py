"""What a user would pick instead: one module a peer, each run in the peer's own virtual environment.

A peer's module imports nothing of this library but `exchange` and, where it is written in JAX, `jax_densities`.
"""
