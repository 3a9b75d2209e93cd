"""The large models whose symmetries `benchmarks.discovery` looks for: ResNets and GPT-2, in plain Flax.

`abstract` gives parameters as shapes alone, so that nothing is allocated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Abstract:
    """A network without numbers.

    Attributes:
        apply: the network, a function of parameters and inputs.
        params: shapes of its parameters.
        x: shape of its inputs.
    """

    apply: Callable[[Any, Any], Array]
    params: Any
    x: jax.ShapeDtypeStruct


class Residual(nn.Module):
    """Convolutions with batch normalisation, added to the stream of channels.

    Attributes:
        widths: channels after each convolution.
        windows: side of the window of each.
        stride: of the first 3x3 convolution and of the shortcut.
    """

    widths: tuple[int, ...]
    windows: tuple[int, ...]
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The stream after this block."""
        y, strides = x, self.stride
        for number, (width, window) in enumerate(zip(self.widths, self.windows, strict=True)):
            step = strides if window == 3 else 1
            strides = 1 if window == 3 else strides
            y = _normalised(nn.Conv(width, (window, window), (step, step), use_bias=False)(y))
            y = y if number == len(self.widths) - 1 else nn.relu(y)
        if x.shape != y.shape:
            x = nn.Conv(self.widths[-1], (1, 1), (self.stride, self.stride), use_bias=False)(x)
            x = _normalised(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """He, Zhang, Ren and Sun, Deep residual learning for image recognition, 2016; batch normalisation at test time.

    Attributes:
        depths: blocks a stage.
        width: channels of the stem; each stage has twice those of the one before.
        bottleneck: blocks of three convolutions, of windows 1, 3 and 1, instead of two.
        classes: number of outputs.
    """

    depths: tuple[int, ...]
    width: int = 64
    bottleneck: bool = True
    classes: int = 1000

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits of images ``(batch, height, width, 3)``."""
        x = nn.relu(_normalised(nn.Conv(self.width, (7, 7), (2, 2), use_bias=False)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, depth in enumerate(self.depths):
            width = self.width * 2**stage
            for block in range(depth):
                stride = 2 if stage and not block else 1
                if self.bottleneck:
                    x = Residual((width, width, 4 * width), (1, 3, 1), stride)(x)
                else:
                    x = Residual((width, width), (3, 3), stride)(x)
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


def _normalised(x: Array) -> Array:
    return nn.BatchNorm(use_running_average=True)(x)


class Block(nn.Module):
    """A pre-norm transformer block with causal attention.

    Attributes:
        heads: number of attention heads.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The residual stream ``(batch, position, feature)`` after this block."""
        mask = nn.make_causal_mask(jnp.zeros(x.shape[:2]))
        x = x + nn.MultiHeadDotProductAttention(self.heads, deterministic=True)(nn.LayerNorm()(x), mask=mask)
        y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y)


class GPT(nn.Module):
    """Radford et al., Language models are unsupervised multitask learners, 2019; the embedding is the output layer too.

    Attributes:
        layers: number of blocks.
        heads: attention heads a block.
        width: of the residual stream.
        vocabulary: number of tokens.
        context: largest number of positions.
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    vocabulary: int = 50257
    context: int = 1024

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Logits of the next token at each position of ``(batch, position)``."""
        embedding = nn.Embed(self.vocabulary, self.width)
        x = embedding(tokens) + nn.Embed(self.context, self.width)(jnp.arange(tokens.shape[1]))
        for _ in range(self.layers):
            x = Block(self.heads)(x)
        return embedding.attend(nn.LayerNorm()(x))


def resnet50() -> Abstract:
    """25.6 million parameters."""
    return abstract(ResNet((3, 4, 6, 3)), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))


def resnet18(width: int = 64) -> Abstract:
    """11.7 million parameters at its usual width; small images, for it is run."""
    network = ResNet((2, 2, 2, 2), width=width, bottleneck=False)
    return abstract(network, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))


def gpt2() -> Abstract:
    """The small one, of 124 million parameters."""
    return abstract(GPT(), jax.ShapeDtypeStruct((1, 1024), jnp.int32))


def small_gpt() -> Abstract:
    """Two layers of width 64."""
    network = GPT(layers=2, heads=4, width=64, vocabulary=256, context=32)
    return abstract(network, jax.ShapeDtypeStruct((1, 32), jnp.int32))


def abstract(network: nn.Module, x: jax.ShapeDtypeStruct) -> Abstract:
    """The network with the shapes of its parameters; means and variances of normalisation are parameters too."""
    return Abstract(network.apply, jax.eval_shape(network.init, jax.random.key(0), x), x)  # pyright: ignore
