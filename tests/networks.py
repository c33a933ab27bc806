"""Generators that were never trained, and draw different pictures all the same."""

import torch

from fastgan import Generator, ModelConfig
from fastgan.anchors import Anchors
from fastgan.ema import reestimate_batch_norm


def lively_generator(config: ModelConfig, noise: float = 0.1, vivid: bool = True, seed: int = 0) -> Generator:
    """A generator in eval mode whose noise counts and whose batch-norm statistics are its own.

    Args:
        config: of the generator.
        noise: strength of every noise map.
        vivid: whether the last convolution is large enough for pictures to fill [-1, 1].
        seed: of the weights.
    """
    torch.manual_seed(seed)
    generator = Generator(config)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "noise" in name:
                parameter.fill_(noise)
        if vivid:
            generator.to_full.parametrizations.weight.original.normal_()
    reestimate_batch_norm(generator)
    return generator.eval()


def anchors_at(places: torch.Tensor) -> Anchors:
    """Anchors of pictures about which nine numbers are known."""
    fixed = torch.Generator().manual_seed(0)
    return Anchors(torch.randn(9, generator=fixed), torch.randn(9, places.shape[1], generator=fixed), places)
