"""The conditional adversarial autoencoder that `prior_knowledge` is trained in, and the judges it is trained against.

It follows the description of the released code: the encoder's map becomes z, a generator draws the face again from z
and the arousal and valence that it should show, and four judges look at z and at the drawing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError, quoted
from ...preprocessing import Preprocessing

__all__ = [
    "Autoencoder",
    "IdentityDistance",
    "ImageJudge",
    "Judges",
    "dense_judge",
    "discriminator_loss",
]


class Autoencoder(nn.Module):
    """Maps faces to z, and z and a condition back to faces.

    Args:
        encoder: Maps 96x96 faces to a flattened map, as `prior_knowledge` does; only the encoder is kept afterwards.
        latent_size: Length of z, whose values lie between -1 and 1.
        num_conditions: 2 for arousal and valence, 0 without labels. Each is repeated `latent_size` times next to z, so
            that z does not outweigh it.
        widths: Channels of the generator's 5x5 transposed convolutions: four of stride 2, one of stride 1; one more
            draws red, green and blue.

    Raises:
        ConfigError: `widths` are not five numbers.

    Shapes:
        pixel_values: `(B, 3, 96, 96)` in [-1, 1]; conditions: `(B, num_conditions)` in [-1, 1]; output: the redrawn
        faces, `(B, 3, 96, 96)` in [-1, 1], and z, `(B, latent_size)` in [-1, 1].

    Example:
        >>> from ciao_peft import load_encoder
        >>> encoder = load_encoder("prior_knowledge", pretrained=False, channels=[4, 8, 8, 8])
        >>> faces, z = Autoencoder(encoder, 5, widths=[8, 8, 4, 4, 4])(torch.zeros(2, 3, 96, 96))
        >>> faces.shape, z.shape
        (torch.Size([2, 3, 96, 96]), torch.Size([2, 5]))
    """

    encoder: nn.Module
    latent_size: int
    latent: nn.Sequential
    start: nn.Sequential
    draw: nn.Sequential

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int = 50,
        num_conditions: int = 0,
        widths: Sequence[int] = (512, 256, 128, 64, 32),
    ):
        super().__init__()
        if len(widths) != 5:
            raise ConfigError(
                f"`widths` must be five numbers, four of stride 2 and one of stride 1; got {quoted(widths)}."
            )
        self.encoder, self.latent_size = encoder, latent_size
        input_size = cast("tuple[int, int, int]", encoder.input_size)
        with torch.no_grad():
            map_size = encoder(torch.zeros(1, *input_size)).shape[1]
        to_latent = nn.Linear(map_size, latent_size)
        self.latent = nn.Sequential(to_latent, nn.Tanh())
        side, last = input_size[1] // 16, widths[0]
        from_latent = nn.Linear(latent_size * (1 + num_conditions), last * side * side)
        self.start = nn.Sequential(
            from_latent,
            nn.ReLU(),
            nn.Unflatten(1, (last, side, side)),
        )
        layers: list[nn.Module] = []
        for step in widths[:4]:
            layers += [nn.ConvTranspose2d(last, step, 5, stride=2, padding=2, output_padding=1), nn.ReLU()]
            last = step
        layers += [nn.ConvTranspose2d(last, widths[4], 5, padding=2), nn.ReLU()]
        self.draw = nn.Sequential(*layers, nn.ConvTranspose2d(widths[4], 3, 5, padding=2), nn.Tanh())
        # With torch's default initialisation z fades on its way through the layers, and every drawing is the mean face.
        for part in self.draw:
            if isinstance(part, nn.ConvTranspose2d):
                places = part.kernel_size[0] ** 2 / part.stride[0] ** 2  # how many sum up in each pixel
                nn.init.normal_(part.weight, std=math.sqrt(2 / (part.in_channels * places)))
                nn.init.zeros_(cast("Tensor", part.bias))
        nn.init.kaiming_normal_(from_latent.weight, nonlinearity="relu")
        nn.init.zeros_(from_latent.bias)
        nn.init.xavier_normal_(to_latent.weight)

    def forward(self, pixel_values: Tensor, conditions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The redrawn faces, and z."""
        z = self.latent(self.encoder(pixel_values))
        return self.generate(z, conditions), z

    def generate(self, z: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Draws faces.

        Args:
            z: `(B, latent_size)` in [-1, 1].
            conditions: Arousal and valence that the faces should show, `(B, num_conditions)` in [-1, 1].

        Returns:
            `(B, 3, 96, 96)` in [-1, 1].
        """
        if conditions is not None:
            z = torch.cat([z, conditions.repeat_interleave(self.latent_size, dim=1).to(z.dtype)], dim=1)
        return self.draw(self.start(z))


def dense_judge(latent_size: int, outputs: int = 1) -> nn.Sequential:
    """Makes a network of 64-32-16 units on z: D_prior (z or uniform numbers?) or D_em (which arousal and valence?).

    Args:
        latent_size: Length of z.
        outputs: Numbers that it returns for each z.

    Returns:
        A network from `(B, latent_size)` to `(B, outputs)`.

    Example:
        >>> dense_judge(5, outputs=2)(torch.rand(4, 5)).shape
        torch.Size([4, 2])
    """
    sizes = [latent_size, 64, 32, 16]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class ImageJudge(nn.Module):
    """D_img: distinguishes faces from drawings of them, given the arousal and valence that they should show.

    Args:
        input_size: Channels, height and width of the faces.
        num_conditions: Number of conditions; they are joined to the picture as constant planes.
        widths: Channels of its 5x5 convolutions of stride 2.

    Shapes:
        faces: `(B, C, H, W)`; conditions: `(B, num_conditions)`; output: logits `(B, 1)` of being a photograph.

    Example:
        >>> judge = ImageJudge((3, 32, 32), num_conditions=2, widths=[4, 8])
        >>> judge(torch.rand(2, 3, 32, 32), torch.rand(2, 2)).shape
        torch.Size([2, 1])
    """

    layers: nn.Sequential

    def __init__(
        self, input_size: tuple[int, int, int], num_conditions: int = 0, widths: Sequence[int] = (16, 32, 64, 128)
    ):
        super().__init__()
        channels, height, width = input_size
        last = channels + num_conditions
        layers: list[nn.Module] = []
        for step in widths:
            layers += [nn.Conv2d(last, step, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]
            last, height, width = step, (height + 1) // 2, (width + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * height * width, 1))

    def forward(self, faces: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Logits `(B, 1)` of being a photograph."""
        if conditions is not None:
            planes = conditions.to(faces.dtype)[:, :, None, None].expand(-1, -1, *faces.shape[2:])
            faces = torch.cat([faces, planes], dim=1)
        return self.layers(faces)


class Judges(nn.Module):
    """D_prior and D_img, which train against the autoencoder. D_em trains with it; identity is not trained.

    Args:
        input_size: Channels, height and width of the faces.
        latent_size: Length of z.
        num_conditions: 2 for arousal and valence, 0 without labels.

    Shapes:
        faces: `(B, C, H, W)`; z: `(B, latent_size)`; conditions: `(B, num_conditions)`; output: two times logits
        `(B, 1)`, of z being uniform numbers and of the faces being photographs.

    Example:
        >>> of_z, of_faces = Judges((3, 32, 32), latent_size=5)(torch.rand(2, 3, 32, 32), torch.rand(2, 5))
        >>> of_z.shape, of_faces.shape
        (torch.Size([2, 1]), torch.Size([2, 1]))
    """

    prior: nn.Sequential
    image: ImageJudge

    def __init__(self, input_size: tuple[int, int, int], latent_size: int = 50, num_conditions: int = 0):
        super().__init__()
        self.prior = dense_judge(latent_size)
        self.image = ImageJudge(input_size, num_conditions)

    def forward(self, faces: Tensor, z: Tensor, conditions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits `(B, 1)` of z being uniform numbers, and of the faces being photographs."""
        return self.prior(z), self.image(faces, conditions)


def discriminator_loss(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of a judge's logits, when all samples are real or none is.

    Args:
        logits: Any shape; computed in float32.
        real: Whether the samples are real.

    Returns:
        The mean over all logits, a scalar in float32.

    Example:
        >>> round(discriminator_loss(torch.zeros(4, 1), real=True).item(), 4)  # log 2
        0.6931
    """
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits.float(), float(real)))


class IdentityDistance(nn.Module):
    """The fourth judge: the distance of two pictures in the features of a frozen face network, at five depths.

    Args:
        network: A network that `load_encoder` made. The depths are spread evenly over its ReLUs.
        shown: The preprocessing of the pictures to compare; they are prepared again for the network.
        depths: Number of depths.

    Shapes:
        faces and others: `(B, C, H, W)`, prepared by `shown`; output: a scalar in float32, the mean absolute difference
        of the features over all depths.

    Raises:
        ConfigError: the network has fewer than five ReLUs.

    Example:
        >>> from ciao_peft import load_encoder
        >>> network = load_encoder("small-face")
        >>> distance = IdentityDistance(network, shown=network.preprocessing)
        >>> faces = torch.rand(2, 3, 64, 64)
        >>> distance(faces, faces).item()
        0.0
    """

    network: nn.Module
    shown: Preprocessing

    def __init__(self, network: nn.Module, shown: Preprocessing, depths: int = 5):
        super().__init__()
        self.network, self.shown = network.eval().requires_grad_(False), shown
        relus = [module for module in network.modules() if isinstance(module, nn.ReLU | nn.PReLU | nn.LeakyReLU)]
        if len(relus) < depths:
            raise ConfigError(
                f"Identity is judged at {depths} depths; {type(network).__name__} has {len(relus)} ReLUs."
            )
        self.seen: list[Tensor] = []
        for i in range(1, depths + 1):
            relus[i * len(relus) // depths - 1].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen.append(output)

    def train(self, mode: bool = True) -> IdentityDistance:
        """Stays in eval mode: the statistics of batch norm are the network's own."""
        return super().train(False)

    def forward(self, faces: Tensor, others: Tensor) -> Tensor:
        """Mean absolute difference of the features, averaged over the depths."""
        self.seen.clear()
        try:
            self.network(self._prepared(torch.cat([faces, others])))
            halves = [seen.chunk(2) for seen in self.seen]
            parts = [(of_faces - of_others).abs().float().mean() for of_faces, of_others in halves]
        finally:
            self.seen.clear()
        return torch.stack(parts).mean()

    def _prepared(self, values: Tensor) -> Tensor:
        needed = cast("Preprocessing", self.network.preprocessing)
        values = values * _column(self.shown.std, values) + _column(self.shown.mean, values)
        values = F.interpolate(values, needed.size, mode="bilinear", antialias=True)
        if needed.mode == "BGR":
            values = values.flip(1)
        elif needed.mode == "L":
            values = values.mean(dim=1, keepdim=True)
        return (values - _column(needed.mean, values)) / _column(needed.std, values)


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(-1, 1, 1)
