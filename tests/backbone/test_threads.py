"""Opening a network in one thread is nobody else's business: other threads use modules as if nobody traced."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import nn

from ciao_peft import get_ciao_model
from helpers.fakes import SIZE, bits, pixels, same_bits, small_config, tiny_backbone, wrap

CALL, GETATTR = vars(nn.Module)["__call__"], vars(nn.Module)["__getattr__"]


def together(*jobs: Callable[[], None]) -> list[BaseException]:
    """Runs each in a thread of its own, all at once; what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def torch_is_as_it_was() -> bool:
    return vars(nn.Module)["__call__"] is CALL and vars(nn.Module)["__getattr__"] is GETATTR


def test_models_are_made_in_several_threads_at_once():
    def make() -> None:
        for _ in range(10):
            model = get_ciao_model(tiny_backbone(), small_config(), input_size=SIZE)
            assert model.traceable

    assert together(*[make] * 4) == []
    assert torch_is_as_it_was()


def test_modules_of_other_threads_answer_while_a_network_is_traced():
    done = threading.Event()
    plain, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(3, 4)
    expected = plain(x).detach()

    def make() -> None:
        try:
            for _ in range(15):
                get_ciao_model(tiny_backbone(), small_config(), input_size=SIZE)
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            assert torch.equal(plain(x), expected)
            assert len(list(plain.state_dict())) == 4

    assert together(make, read, read) == []
    assert torch_is_as_it_was()


def test_a_model_reads_while_an_adapter_that_masks_elsewhere_is_loaded(tmp_path):
    first = wrap().eval()
    names = [name for name, module in first.backbone.named_modules() if isinstance(module, nn.Conv2d)]
    other = get_ciao_model(tiny_backbone(), small_config(target_modules=(names[0],)), "other", input_size=SIZE)
    other.save_pretrained(tmp_path / "other")
    x = pixels()
    expected = {name: logits.detach() for name, logits in first.read(x).items()}
    before, done = bits(first.backbone), threading.Event()

    def load() -> None:
        try:
            for number in range(8):
                first.load_adapter(tmp_path / "other", adapter_name=f"other{number}")
                first.delete_adapter(f"other{number}")
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            assert torch.equal(first.read(x, adapter_names=["default"])["default"], expected["default"])

    assert together(load, read, read) == []
    assert same_bits(before, bits(first.backbone))
    assert torch_is_as_it_was()


def test_an_error_while_tracing_leaves_torch_as_it_was():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if not isinstance(x, torch.Tensor):
                raise ValueError("no proxies here")
            return self.conv(x).relu()

    model = get_ciao_model(Broken(), small_config(), input_size=SIZE)
    assert not model.traceable
    assert torch_is_as_it_was()
