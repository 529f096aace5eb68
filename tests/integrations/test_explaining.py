"""captum and grad-cam look into an adapter."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ciao_peft import CIAOConfig, CIAOModel, get_ciao_model


def made() -> CIAOModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3, decay_init=1.0)
    return get_ciao_model(net, config, input_size=(3, 12, 12)).eval()


def test_captum_attributes_pixels():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attr = pytest.importorskip("captum.attr")
    model, faces = made(), torch.rand(2, 3, 12, 12)

    def answers(pixels: Tensor) -> Tensor:
        return model(pixels)["logits"]

    found, error = attr.IntegratedGradients(answers).attribute(
        faces, target=1, n_steps=200, return_convergence_delta=True
    )
    assert found.shape == faces.shape and found.abs().sum() > 0
    with torch.no_grad():
        gain = answers(faces)[:, 1] - answers(torch.zeros_like(faces))[:, 1]
    torch.testing.assert_close(found.flatten(1).sum(dim=1).float(), gain, atol=2e-2, rtol=5e-2)  # completeness
    assert error.abs().max() < 2e-2


def test_captum_hooks_a_convolution():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attr = pytest.importorskip("captum.attr")
    model, faces = made(), torch.rand(2, 3, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = attr.LayerGradCam(lambda pixels: model(pixels)["logits"], model.backbone[0])
        found = layer.attribute(faces.requires_grad_(), target=0)  # or nothing before the mask would have gradients
    assert found.shape == (2, 1, 10, 10) and found.abs().sum() > 0


def test_captum_hooks_a_container():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attr = pytest.importorskip("captum.attr")
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), nn.MaxPool2d(2))
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3, decay_init=1.0)
    model = get_ciao_model(net, config, input_size=(3, 12, 12)).eval()
    layer = attr.LayerGradCam(lambda pixels: model(pixels)["logits"], model.backbone[2])
    found = layer.attribute(torch.rand(2, 3, 12, 12), target=0)
    assert found.shape == (2, 1, 8, 8) and found.abs().sum() > 0


def test_grad_cam_draws_a_map():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # pyright: ignore[reportMissingImports]

    class Logits(nn.Module):
        def __init__(self, model: CIAOModel):
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> Tensor:
            return self.model(pixels)["logits"]

    model = made()
    with pytorch_grad_cam.GradCAM(Logits(model), [model.backbone[0]]) as cam:
        faces = torch.rand(2, 3, 12, 12, requires_grad=True)  # or nothing before the mask would have gradients
        found = cam(input_tensor=faces, targets=[ClassifierOutputTarget(1)] * 2)
    assert found.shape == (2, 12, 12) and np.isfinite(found).all() and found.max() > 0
