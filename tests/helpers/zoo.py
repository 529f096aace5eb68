"""One small model of every convolutional family, with random weights; nothing is downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

from torch import nn

MIN_CONVOLUTIONS = 8
"""A family of timm is convolutional if one of its models runs at least so many Conv2d whose output is larger than 1x1:
a stem that cuts the picture into patches has one to six of them, whatever follows."""


@dataclass(frozen=True)
class Family:
    """A family of networks by the library's own division, with the model that stands for it.

    Args:
        library: `timm`, `torchvision` or `transformers`.
        name: Of the module that defines it.
        model: Name or class of the model tried.
        build: Makes it, with random weights.
        input_size: `(C, H, W)` it is tried on: small, but large enough for its last stage to have positions.
    """

    library: str
    name: str
    model: str
    build: Callable[[], nn.Module] = field(repr=False, compare=False)
    input_size: tuple[int, int, int] = (3, 64, 64)

    def __str__(self) -> str:
        return f"{self.library}-{self.name}"


# -- the families ----------------------------------------------------------------------------------------------------

# Of each module of timm.models, the model with fewest parameters among those with eight Conv2d or more, and what keeps
# it small: a smaller side of the picture, or a smaller classifier.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "byoanet": ("eca_botnext26ts_256", {"img_size": 64}),
    "byobnet": ("test_byobnet", {}),
    "coat": ("coat_tiny", {"img_size": 64}),
    "convmixer": ("convmixer_768_32", {}),
    "convnext": ("test_convnext", {}),
    "cpubone": ("cpubone_nano", {}),
    "csatv2": ("csatv2", {"side": 128}),
    "cspnet": ("cs3darknet_focus_s", {}),
    "cspnext": ("cspnext_tiny", {}),
    "davit": ("davit_tiny", {}),
    "densenet": ("densenet121", {}),
    "dla": ("dla46x_c", {}),
    "dpn": ("dpn48b", {}),
    "edgenext": ("edgenext_xx_small", {}),
    "efficientformer": ("efficientformer_l1", {"side": 224}),
    "efficientformer_v2": ("efficientformerv2_s0", {"img_size": 64}),
    "efficientnet": ("test_efficientnet", {}),
    "efficientvim": ("efficientvim_m1", {"side": 128}),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", {"img_size": 128}),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {"img_size": 64}),
    "ghostnet": ("ghostnet_050", {}),
    "hardcorenas": ("hardcorenas_b", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "inception_resnet_v2": ("inception_resnet_v2", {"side": 128}),
    "inception_v3": ("inception_v3", {"side": 128}),
    "inception_v4": ("inception_v4", {"side": 128}),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_conv_128s", {"img_size": 128}),
    "lowformer": ("lowformer_b0", {}),
    "mambaout": ("test_mambaout", {}),
    "maxxvit": ("test_coatnet", {"img_size": 64}),
    "metaformer": ("poolformerv2_s12", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv5": ("mobilenetv5_base", {"channel_multiplier": 0.25}),
    "mobilevit": ("mobilevit_xxs", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "nasnet": ("nasnetalarge", {"num_features": 672, "stem_size": 24}),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("test_nfnet", {}),
    "pnasnet": ("pnasnet5large", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "rdnet": ("rdnet_tiny", {}),
    "regnet": ("regnetx_002", {}),
    "repghost": ("repghostnet_050", {}),
    "repvit": ("repvit_m1", {}),
    "res2net": ("res2next50", {}),
    "resnest": ("resnest14d", {}),
    "resnet": ("test_resnet", {}),
    "resnetv2": ("resnetv2_18", {}),
    "rexnet": ("rexnet_100", {}),
    "selecsls": ("selecsls42", {"side": 128}),
    "senet": ("legacy_seresnet18", {}),
    "shvit": ("shvit_s1", {"side": 128}),
    "sknet": ("skresnet18", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_xs", {}),
    "tiny_vit": ("tiny_vit_5m_224", {}),
    "tresnet": ("tresnet_m", {}),
    "twins": ("twins_svt_small", {}),
    "vgg": ("vgg11", {"mlp_ratio": 1 / 16}),
    "visformer": ("visformer_tiny", {"img_size": 64}),
    "vision_transformer_hybrid": ("vit_small_r26_s32_224", {"img_size": 64}),
    "vitamin": ("vitamin_small_224", {"img_size": 64}),
    "vovnet": ("ese_vovnet19b_slim_dw", {}),
    "xception": ("legacy_xception", {}),
    "xception_aligned": ("xception41p", {}),
    "xcit": ("xcit_nano_12_p8_224", {}),
}


# The other modules of timm.models, and the most Conv2d that a model of theirs has: patches, then attention or MLPs.
TIMM_WITHOUT: dict[str, int] = {
    "beit": 1,
    "cait": 1,
    "convit": 1,
    "crossvit": 6,
    "deepseek_vit": 1,
    "deit": 1,
    "eva": 1,
    "gemma4_vit": 0,
    "hiera": 1,
    "hieradet_sam2": 1,
    "mlp_mixer": 1,
    "naflexvit": 0,
    "nest": 3,
    "pit": 3,
    "qwen3_vit": 1,
    "sequencer": 4,
    "swin_transformer": 1,
    "swin_transformer_v2": 1,
    "swin_transformer_v2_cr": 1,
    "tnt": 1,
    "vision_transformer": 1,
    "vision_transformer_relpos": 1,
    "vision_transformer_sam": 3,
    "volo": 5,
}

MADE_WITH = {"timm": "1.0.31", "torchvision": "0.29.1", "transformers": "5.23.0"}
"""The versions that the lists and docs/backbones.md are about."""

TORCHVISION: dict[str, tuple[str, dict[str, Any]]] = {
    "alexnet": ("alexnet", {}),
    "convnext": ("convnext_tiny", {}),
    "densenet": ("densenet121", {}),
    "efficientnet": ("efficientnet_b0", {}),
    "googlenet": ("googlenet", {"side": 128, "aux_logits": False}),
    "inception": ("inception_v3", {"side": 128, "aux_logits": False}),
    "maxvit": (
        "maxvit.MaxVit",
        {
            "input_size": (64, 64),
            "stem_channels": 16,
            "partition_size": 2,
            "block_channels": [16, 32, 48, 64],
            "block_layers": [1, 1, 1, 2],
            "head_dim": 8,
            "stochastic_depth_prob": 0.0,
        },
    ),
    "mnasnet": ("mnasnet0_5", {}),
    "mobilenetv2": ("mobilenet_v2", {}),
    "mobilenetv3": ("mobilenet_v3_small", {}),
    "regnet": ("regnet_x_400mf", {}),
    "resnet": ("resnet18", {}),
    "shufflenetv2": ("shufflenet_v2_x0_5", {}),
    "squeezenet": ("squeezenet1_1", {}),
    "vgg": ("vgg11", {}),
}
"""Of each module of `torchvision.models`, the smallest model."""

# Configs of transformers' classes, made small. Two labels, as every one of them starts with.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bit": ("Bit", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "num_groups": 4}),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}),
    "convnextv2": ("ConvNextV2", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}),
    "cvt": (
        "Cvt",
        {
            "embed_dim": [8, 16],
            "num_heads": [1, 2],
            "depth": [1, 2],
            **{
                name: value * 2
                for name, value in {
                    "patch_sizes": [3],
                    "patch_stride": [2],
                    "patch_padding": [1],
                    "mlp_ratio": [2.0],
                    "attention_drop_rate": [0.0],
                    "drop_rate": [0.0],
                    "drop_path_rate": [0.0],
                    "qkv_bias": [True],
                    "qkv_projection_method": ["dw_bn"],
                    "kernel_qkv": [3],
                    "padding_kv": [1],
                    "stride_kv": [2],
                    "padding_q": [1],
                    "stride_q": [1],
                }.items()
            },
            "cls_token": [False, True],
        },
    ),
    "efficientnet": ("EfficientNet", {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}),
    "focalnet": (
        "FocalNet",
        {
            "image_size": 64,
            "embed_dim": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
    ),
    "hgnet_v2": (
        "HGNetV2",
        {
            "embedding_size": 8,
            "depths": [1, 1],
            "hidden_sizes": [16, 32],
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 16],
            "stage_mid_channels": [8, 8],
            "stage_out_channels": [16, 32],
            "stage_num_blocks": [1, 1],
            "stage_downsample": [False, True],
            "stage_light_block": [False, True],
            "stage_kernel_size": [3, 3],
            "stage_numb_of_layers": [2, 2],
        },
    ),
    "levit": (
        "Levit",
        {
            "image_size": 128,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [1, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "mobilenet_v1": ("MobileNetV1", {"depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2", {"depth_multiplier": 0.35}),
    "mobilevit": (
        "MobileViT",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 48]},
    ),
    "mobilevitv2": ("MobileViTV2", {"image_size": 64, "width_multiplier": 0.25}),
    "poolformer": ("PoolFormer", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 2]}),
    "pp_lcnet": ("PPLCNet", {"scale": 0.25}),
    "pvt_v2": (
        "PvtV2",
        {
            "image_size": 64,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 2],
            "num_attention_heads": [1, 2, 2, 2],
        },
    ),
    "regnet": ("RegNet", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8}),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "basic"}),
    "segformer": (
        "Segformer",
        {
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 2],
            "num_attention_heads": [1, 2, 2, 2],
            "decoder_hidden_size": 32,
        },
    ),
    "swiftformer": ("SwiftFormer", {"depths": [1, 1, 1, 2], "embed_dims": [8, 16, 24, 32]}),
    "textnet": ("TextNet", {"stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 32]}),
    "timm_wrapper": ("TimmWrapper", {"architecture": "test_resnet"}),
}


def _timm(model: str, settings: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(model, pretrained=False, num_classes=5, **settings)


def _torchvision(model: str, settings: dict[str, Any]) -> nn.Module:
    import torchvision

    with warnings.catch_warnings():  # GoogLeNet and Inception: about how long they take to draw their weights
        warnings.simplefilter("ignore", FutureWarning)
        return attrgetter(model)(torchvision.models)(num_classes=5, **settings)


def _transformers(kind: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


def families() -> list[Family]:
    """Every family that is walked."""
    found = []
    for library, models, build in (
        ("timm", TIMM, _timm),
        ("torchvision", TORCHVISION, _torchvision),
        ("transformers", TRANSFORMERS, _transformers),
    ):
        for name, (model, given) in models.items():
            settings = dict(given)
            side = settings.pop("side", settings.get("img_size", settings.get("image_size", 64)))
            title = f"{model}ForImageClassification" if library == "transformers" else model
            found.append(Family(library, name, title, partial(build, model, settings), (3, side, side)))
    return found
