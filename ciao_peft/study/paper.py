"""What the paper reports, as data: Tables I and II, and the weights behind Fig. 4.

Numbers are as printed in sections IV and V of Barros & Sciutti, "CIAO! A Contrastive Adaptation Mechanism for
Non-Universal Facial Expression Recognition" (2022): means over 30 runs, without standard deviations. Where two numbers
of the paper contradict each other both stay: Table II gives 0.50 for the arousal of VGG with CIAO, Table I 0.49; in
Table I PK's last convolution reaches 92.1 on JAFFE, above its full training (83.3) and above itself with CIAO (80.3).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

RUNS = 30
ENCODERS = {"vggface2": "VGG", "prior_knowledge": "PK"}
SCHEMES = {"full": "Full", "last convolution": "LC", "decision layer": "DL"}
WITH_CIAO = " + CIAO"


# How the paper splits a dataset, where that is not the first of `PROTOCOLS`.
_WORDED = {"jaffe": "leave-one-emotion-out"}


@dataclass(frozen=True)
class PaperScore:
    """One number of Table I.

    Args:
        task: As the paper calls it.
        dataset: As `load_faces` calls it.
        score: Key of our scores, such as `"concordance_arousal"`.
        encoder: As `load_encoder` calls it.
        method: One of the six networks.
        printed: The number as printed: percent for accuracy, a fraction for the others.

    Example:
        >>> TABLE_I[0].task, TABLE_I[0].method, TABLE_I[0].value
        ('AffectNet, arousal', 'full', 0.46)
    """

    task: str
    dataset: str
    score: str
    encoder: str
    method: str
    printed: float

    @property
    def value(self) -> float:
        """As a fraction, like our own scores."""
        return self.printed / 100 if self.score == "accuracy" else self.printed


@dataclass(frozen=True)
class PublishedScore:
    """One number of Table II.

    Args:
        task: As the paper calls it.
        dataset: As `load_faces` calls it.
        score: Key of our scores.
        model: The published model, or one of the paper's own.
        printed: The number as printed: percent for accuracy, a fraction for the others.
        encoder, method: Which of the paper's own; `None` for a model of others.

    Example:
        >>> TABLE_II[0].model, TABLE_II[0].value
        ('AlexNet', 0.34)
    """

    task: str
    dataset: str
    score: str
    model: str
    printed: float
    encoder: str | None = None
    method: str | None = None

    @property
    def value(self) -> float:
        """As a fraction, like our own scores."""
        return self.printed / 100 if self.score == "accuracy" else self.printed


# (task, dataset, key of the score), then encoder -> network -> (without, with CIAO).
_TABLE_I = {
    ("AffectNet, arousal", "affectnet", "concordance_arousal"): {
        "vggface2": {"full": (0.46, 0.49), "last convolution": (0.35, 0.48), "decision layer": (0.29, 0.47)},
        "prior_knowledge": {"full": (0.42, 0.49), "last convolution": (0.30, 0.47), "decision layer": (0.20, 0.45)},
    },
    ("AffectNet, valence", "affectnet", "concordance_valence"): {
        "vggface2": {"full": (0.50, 0.60), "last convolution": (0.40, 0.58), "decision layer": (0.31, 0.58)},
        "prior_knowledge": {"full": (0.55, 0.59), "last convolution": (0.38, 0.55), "decision layer": (0.15, 0.54)},
    },
    ("AffectNet, categorical", "affectnet", "accuracy"): {
        "vggface2": {"full": (60.1, 65.7), "last convolution": (50.3, 63.4), "decision layer": (35.2, 62.9)},
        "prior_knowledge": {"full": (59.9, 63.6), "last convolution": (45.3, 60.2), "decision layer": (15.2, 59.9)},
    },
    ("FER", "fer2013", "accuracy"): {
        "vggface2": {"full": (72.5, 76.1), "last convolution": (63.2, 69.3), "decision layer": (55.3, 68.2)},
        "prior_knowledge": {"full": (70.1, 75.4), "last convolution": (59.2, 70.1), "decision layer": (28.2, 70.2)},
    },
    ("FER+", "ferplus", "accuracy"): {
        "vggface2": {"full": (91.7, 94.5), "last convolution": (83.5, 90.1), "decision layer": (72.3, 89.3)},
        "prior_knowledge": {"full": (88.9, 93.2), "last convolution": (81.1, 89.4), "decision layer": (69.3, 90.1)},
    },
    ("JAFFE", "jaffe", "accuracy"): {
        "vggface2": {"full": (92.1, 93.4), "last convolution": (73.4, 92.1), "decision layer": (69.3, 91.5)},
        "prior_knowledge": {"full": (83.3, 85.2), "last convolution": (92.1, 80.3), "decision layer": (27.8, 79.8)},
    },
    ("EmoReact", "emoreact", "macro_f1"): {
        "vggface2": {"full": (0.7, 0.73), "last convolution": (0.6, 0.7), "decision layer": (0.58, 0.69)},
        "prior_knowledge": {"full": (0.74, 0.76), "last convolution": (0.63, 0.72), "decision layer": (0.26, 0.69)},
    },
}

TABLE_I = tuple(
    PaperScore(*what, encoder, scheme + mark, printed)
    for what, encoders in _TABLE_I.items()
    for encoder, schemes in encoders.items()
    for scheme, pair in schemes.items()
    for mark, printed in zip(("", WITH_CIAO), pair, strict=True)
)

_VGG_FULL = ("vggface2", "full + CIAO")
_VGG_HEAD = ("vggface2", "decision layer + CIAO")
_PK_FULL = ("prior_knowledge", "full + CIAO")
_PK_HEAD = ("prior_knowledge", "decision layer + CIAO")

TABLE_II = tuple(
    PublishedScore(task, dataset, score, *row)
    for (task, dataset, score), rows in {
        ("AffectNet, arousal", "affectnet", "concordance_arousal"): [
            ("AlexNet", 0.34),
            ("MobileNet", 0.48),
            ("VGG+GAN", 0.54),
            ("VGG, full + CIAO", 0.50, *_VGG_FULL),
            ("VGG, decision layer + CIAO", 0.47, *_VGG_HEAD),
        ],
        ("AffectNet, valence", "affectnet", "concordance_valence"): [
            ("AlexNet", 0.6),
            ("MobileNet", 0.57),
            ("VGG+GAN", 0.62),
            ("VGG, full + CIAO", 0.60, *_VGG_FULL),
            ("VGG, decision layer + CIAO", 0.58, *_VGG_HEAD),
        ],
        ("AffectNet, categorical", "affectnet", "accuracy"): [
            ("PSR", 60.68),
            ("RAN", 59.5),
            ("ESR-9", 59.3),
            ("VGG, full + CIAO", 65.7, *_VGG_FULL),
            ("VGG, decision layer + CIAO", 62.9, *_VGG_HEAD),
        ],
        ("FER", "fer2013", "accuracy"): [
            ("ResMaskNet", 76.8),
            ("Inception", 72.4),
            ("DeepEm.", 70.0),
            ("VGG, full + CIAO", 76.1, *_VGG_FULL),
            ("PK, decision layer + CIAO", 70.2, *_PK_HEAD),
        ],
        ("FER+", "ferplus", "accuracy"): [
            ("PSR", 89.75),
            ("RAN", 89.16),
            ("SENet", 88.8),
            ("VGG, full + CIAO", 94.5, *_VGG_FULL),
            ("PK, decision layer + CIAO", 90.1, *_PK_HEAD),
        ],
        ("JAFFE", "jaffe", "accuracy"): [
            ("DeepEm.", 92.2),
            ("SalientPatch", 91.8),
            ("VGG, full + CIAO", 93.4, *_VGG_FULL),
            ("VGG, decision layer + CIAO", 91.5, *_VGG_HEAD),
        ],
        ("EmoReact", "emoreact", "macro_f1"): [
            ("RBFSVM", 0.69),
            ("SVM", 0.66),
            ("PK, full + CIAO", 0.76, *_PK_FULL),
            ("PK, decision layer + CIAO", 0.69, *_PK_HEAD),
        ],
    }.items()
    for row in rows
)

# Fig. 4 is a bar chart without printed numbers. What follows from the architectures of section III-A: weights of the
# whole encoder and of its last convolution. The decision layers come on top of these.
_VGG16_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_PK_CHANNELS = (3, 64, 128, 256, 512)


def _weights(channels: tuple[int, ...], kernel: int) -> list[int]:
    """Weights and biases of each convolution of a chain."""
    return [a * b * kernel * kernel + b for a, b in itertools.pairwise(channels)]


_LAYERS = {"vggface2": _weights(_VGG16_CHANNELS, 3), "prior_knowledge": _weights(_PK_CHANNELS, 5)}


def paper_scores(dataset: str, encoder: str, method: str) -> dict[str, float]:
    """Fractions of Table I by the key of our score; empty for what the paper did not run.

    Example:
        >>> paper_scores("affectnet", "vggface2", "decision layer + CIAO")
        {'concordance_arousal': 0.47, 'concordance_valence': 0.58, 'accuracy': 0.629}
        >>> paper_scores("painted_faces", "vggface2", "full")
        {}
    """
    return {
        row.score: row.value for row in TABLE_I if (row.dataset, row.encoder, row.method) == (dataset, encoder, method)
    }


def paper_protocol(dataset: str) -> str | None:
    """How the paper splits a dataset, as `load_faces` calls it; `None` for a dataset of one's own.

    Example:
        >>> paper_protocol("jaffe"), paper_protocol("ferplus"), paper_protocol("mine")
        ('leave-one-emotion-out', 'official', None)
    """
    from ..data import PROTOCOLS

    return _WORDED.get(dataset, PROTOCOLS.get(dataset, (None,))[0])


def trained_outside_head(encoder: str, method: str) -> int | None:
    """How many numbers one of the six networks trains outside its decision layer, on an encoder of the paper (Fig. 4).

    CIAO adds a copy of the last convolution and one `a` per channel.

    Returns:
        The count, or `None` for an encoder or a method that the paper did not run.

    Example:
        >>> [trained_outside_head("vggface2", name) for name in ("last convolution", "decision layer + CIAO")]
        [2359808, 2360320]
    """
    scheme = method.removesuffix(WITH_CIAO)
    if encoder not in _LAYERS or scheme not in SCHEMES:
        return None
    layers = _LAYERS[encoder]
    tuned = {"full": sum(layers), "last convolution": layers[-1], "decision layer": 0}[scheme]
    return tuned + (layers[-1] + 512 if method.endswith(WITH_CIAO) else 0)
