"""The conditional adversarial autoencoder that `prior_knowledge` is trained in, and the judges it is trained against.

It follows the description of the released code: the encoder's map becomes z, a generator draws the face again from z
and the arousal and valence that it should show, and four judges look at z and at the drawing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...preprocessing import Preprocessing


class Autoencoder(nn.Module):
    """From faces to z, and from z and a condition back to faces.

    Args:
        encoder: Maps 96x96 faces to a flattened map, as `prior_knowledge` does; only the encoder is kept afterwards.
        latent_size: Numbers in z, each between -1 and 1.
        num_conditions: 2 for arousal and valence, 0 without labels. Each is repeated `latent_size` times next to z, so
            that z does not outweigh it.
        widths: Channels of the generator's 5x5 transposed convolutions: four of stride 2, one of stride 1; one more
            draws red, green and blue.

    Shapes:
        pixel_values: `(B, 3, 96, 96)` in [-1, 1]; conditions: `(B, num_conditions)` in [-1, 1].

    Example:
        >>> from ciao_peft import load_encoder
        >>> encoder = load_encoder("prior_knowledge", pretrained=False, channels=[4, 8, 8, 8])
        >>> faces, z = Autoencoder(encoder, 5, widths=[8, 8, 4, 4, 4])(torch.zeros(2, 3, 96, 96))
        >>> faces.shape, z.shape
        (torch.Size([2, 3, 96, 96]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_size: int = 50,
        num_conditions: int = 0,
        widths: Sequence[int] = (512, 256, 128, 64, 32),
    ):
        super().__init__()
        if len(widths) != 5:
            raise ConfigError(f"`widths` must be five numbers, four of stride 2 and one of stride 1; got {widths!r}.")
        self.encoder, self.latent_size = encoder, latent_size
        with torch.no_grad():
            map_size = encoder(torch.zeros(1, *encoder.input_size)).shape[1]
        self.latent = nn.Sequential(nn.Linear(map_size, latent_size), nn.Tanh())
        side, last = encoder.input_size[1] // 16, widths[0]
        self.start = nn.Sequential(
            nn.Linear(latent_size * (1 + num_conditions), last * side * side),
            nn.ReLU(),
            nn.Unflatten(1, (last, side, side)),
        )
        layers = []
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
                nn.init.zeros_(part.bias)
        nn.init.kaiming_normal_(self.start[0].weight, nonlinearity="relu")
        nn.init.zeros_(self.start[0].bias)
        nn.init.xavier_normal_(self.latent[0].weight)

    def forward(self, pixel_values: Tensor, conditions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The redrawn faces, and z."""
        z = self.latent(self.encoder(pixel_values))
        return self.generate(z, conditions), z

    def generate(self, z: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Faces drawn from z `(B, latent_size)` and the conditions that they should show."""
        if conditions is not None:
            z = torch.cat([z, conditions.repeat_interleave(self.latent_size, dim=1).to(z.dtype)], dim=1)
        return self.draw(self.start(z))


def dense_judge(latent_size: int, outputs: int = 1) -> nn.Sequential:
    """64-32-16 units on z: D_prior (z or uniform numbers?) or D_em (which arousal and valence?)."""
    sizes, layers = [latent_size, 64, 32, 16], []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class ImageJudge(nn.Module):
    """D_img: distinguishes faces from drawings of them, given the arousal and valence that they should show.

    Args:
        input_size: Channels, height and width of the faces.
        num_conditions: Joined to the picture as constant planes.
        widths: Channels of its 5x5 convolutions of stride 2.
    """

    def __init__(
        self, input_size: tuple[int, int, int], num_conditions: int = 0, widths: Sequence[int] = (16, 32, 64, 128)
    ):
        super().__init__()
        channels, height, width = input_size
        layers, last = [], channels + num_conditions
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
        latent_size: Numbers in z.
        num_conditions: 2 for arousal and valence, 0 without labels.
    """

    def __init__(self, input_size: tuple[int, int, int], latent_size: int = 50, num_conditions: int = 0):
        super().__init__()
        self.prior = dense_judge(latent_size)
        self.image = ImageJudge(input_size, num_conditions)

    def forward(self, faces: Tensor, z: Tensor, conditions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits `(B, 1)` of z being uniform numbers, and of the faces being photographs."""
        return self.prior(z), self.image(faces, conditions)


def discriminator_loss(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of a judge's logits, where all samples are real or none is."""
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits.float(), float(real)))


class IdentityDistance(nn.Module):
    """The fourth judge: the distance of two pictures in the features of a frozen face network, at five depths.

    Args:
        network: A network that `load_encoder` made. The depths are spread evenly over its ReLUs.
        shown: The preprocessing of the pictures to compare; they are prepared again for the network.

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

    def __init__(self, network: nn.Module, shown: Preprocessing, depths: int = 5):
        super().__init__()
        self.network, self.shown = network.eval().requires_grad_(False), shown
        found = [module for module in network.modules() if isinstance(module, nn.ReLU | nn.PReLU | nn.LeakyReLU)]
        if len(found) < depths:
            raise ConfigError(
                f"Identity is judged at {depths} depths; {type(network).__name__} has {len(found)} ReLUs."
            )
        self.seen: list[Tensor] = []
        for i in range(1, depths + 1):
            found[i * len(found) // depths - 1].register_forward_hook(self._keep)

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
            parts = [(one - two).abs().float().mean() for one, two in (seen.chunk(2) for seen in self.seen)]
        finally:
            self.seen.clear()
        return torch.stack(parts).mean()

    def _prepared(self, values: Tensor) -> Tensor:
        wanted: Preprocessing = self.network.preprocessing
        values = values * _column(self.shown.std, values) + _column(self.shown.mean, values)
        values = F.interpolate(values, wanted.size, mode="bilinear", antialias=True)
        if wanted.mode == "BGR":
            values = values.flip(1)
        elif wanted.mode == "L":
            values = values.mean(dim=1, keepdim=True)
        return (values - _column(wanted.mean, values)) / _column(wanted.std, values)


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(-1, 1, 1)
