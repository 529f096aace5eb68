"""The contrastive loss on a GPU: few blocks, and sums over a class as products; it is the loss of the CPU."""

from __future__ import annotations

from functools import partial
from weakref import WeakSet

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ciao_peft import contrastive
from ciao_peft.losses import supervised_contrastive_loss
from helpers.losses import VARIANTS, by_definition, value_and_gradient


@pytest.fixture
def by_products(monkeypatch):
    monkeypatch.setattr(contrastive, "_counts_by_products", lambda device: True)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("temperature", [0.005, 0.1])
@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
@pytest.mark.parametrize("block_size", [1, 7, 20, 21, None])
def test_sums_by_products_change_no_result(block_size, denominator, reduction, temperature):
    z, labels = torch.randn(21, 5, dtype=torch.float64), torch.randint(0, 6, (21,)) - 2
    settings = {"temperature": temperature, "denominator": denominator, "reduction": reduction}
    expected = value_and_gradient(lambda z: by_definition(z, labels, **settings), z)
    settings["block_size"] = block_size
    found = value_and_gradient(lambda z: supervised_contrastive_loss(z, labels, **settings), z)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 / temperature)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
def test_sums_by_products_have_gradients_of_gradients_and_may_be_asked_twice(denominator, reduction):
    labels = torch.tensor([0, 0, 1, 1, 2])
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    settings = {"temperature": 0.3, "denominator": denominator, "reduction": reduction}
    for block_size in (2, 5):
        settings["block_size"] = block_size
        assert torch.autograd.gradgradcheck(lambda z: supervised_contrastive_loss(z, labels, **settings), (z,))
        loss = supervised_contrastive_loss(z, labels, **settings)
        first, second = (torch.autograd.grad(loss, z, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.usefixtures("by_products")
def test_sums_by_products_know_lone_samples_and_zeros():
    for labels in map(torch.tensor, ([0, 1, 2], [0, 0, 0], [0, 0, 1])):
        z = torch.randn(3, 4, dtype=torch.float64)
        z[1] = 0
        for denominator, reduction in VARIANTS:
            if denominator == "class_average":  # not of pair weights, nor by products
                continue
            settings = {"temperature": 0.1, "denominator": denominator, "reduction": reduction}
            expected = value_and_gradient(partial(dense, labels=labels, settings=settings), z)
            found = value_and_gradient(partial(supervised_contrastive_loss, labels=labels, **settings), z)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def dense(z, labels, settings):
    """The loss by whole matrices, which pair weights take."""
    return supervised_contrastive_loss(z, (labels[:, None] == labels[None, :]).double(), **settings)


def test_blocks_follow_device_and_memory(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    free = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[-1], 80e9))
    assert [contrastive._block_size(batch, cpu) for batch in (8, 10_000)] == [256, 256]
    assert [contrastive._block_size(batch, gpu) for batch in (64, 1024, 4095, 4096, 8192)] == [
        64,
        1024,
        4095,
        2048,
        4096,
    ]
    free.append(70e9)
    assert [contrastive._block_size(batch, gpu) for batch in (16_384, 100_000)] == [8192, 8192]
    free.append(1e9)
    block = contrastive._block_size(16_384, gpu)
    assert 8 * block**2 <= free[-1] / 4 and block > 5000
    free.append(0)
    assert contrastive._block_size(16_384, gpu) == 256


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made inside that are alive at the same time, at most."""

    def __init__(self):
        super().__init__()
        self._known: WeakSet = WeakSet()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(tensor):
                self._known.add(tensor.untyped_storage())
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._known))
        return result


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("denominator", ["all", "negatives"])
def test_from_4096_samples_on_it_takes_a_quarter_of_what_the_formula_takes(denominator, monkeypatch):
    monkeypatch.setattr(contrastive, "_FEW", 256)  # the same choice, at a size for a test
    block = contrastive._block_size(512, torch.device("cuda"))
    z, labels = torch.randn(512, 8, requires_grad=True), torch.arange(512) % 7
    with LiveBytes() as live:
        supervised_contrastive_loss(z, labels, denominator=denominator, block_size=block).backward()
    assert live.peak <= 6 * 4 * 512**2 / 4  # matrices of all pairs in float32: the formula holds six


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("block_size", [5, 12])
@pytest.mark.parametrize("temperature", [0.005, 0.02, 0.1, 1.0])
@pytest.mark.parametrize(("denominator", "reduction"), VARIANTS)
def test_sums_by_products_are_within_1e_5_of_float64_too(denominator, reduction, temperature, block_size):
    z = torch.randn(12, 16)
    z[6:] = z[:6] + 0.05 * torch.randn(6, 16)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0, 1, 2, 0])
    settings = {"temperature": temperature, "denominator": denominator, "reduction": reduction}
    expected, expected_gradient = value_and_gradient(lambda z: by_definition(z, labels, **settings), z.double())
    embeddings = z.clone().requires_grad_(True)
    loss = supervised_contrastive_loss(embeddings, labels, block_size=block_size, **settings)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (embeddings.grad.double() - expected_gradient).norm() <= 1e-6 * expected_gradient.norm()


@pytest.mark.cuda
@pytest.mark.parametrize("size", [256, 1024, 4096])
def test_on_a_gpu_it_is_the_loss_of_the_cpu_and_nobody_waits(size):
    z, labels = torch.randn(size, 64), torch.arange(size) % 7
    expected = value_and_gradient(lambda z: supervised_contrastive_loss(z, labels), z)
    there, ids = z.to("cuda"), labels.to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = value_and_gradient(lambda z: supervised_contrastive_loss(z, ids), there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(tuple(t.cpu() for t in found), expected, rtol=1e-5, atol=1e-7)
