"""Adapters never touch each other (promises 7 to 11 and 14)."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading

import pytest
import torch

from ciao_peft.errors import (
    AdapterNameError,
    AdapterNotFoundError,
    NoActiveAdapterError,
)
from ciao_peft.model import get_ciao_model
from helpers.fakes import (
    BACKBONES,
    NETWORKS,
    Undecided,
    bits,
    pixels,
    residual_backbone,
    same_bits,
    small_config,
    tiny_backbone,
    train,
    worlds,
    wrap,
)


@BACKBONES
@NETWORKS
def test_training_changes_everything_of_one_adapter_and_nothing_of_another(make, network):  # promise 7
    model = wrap(make(), "other", **network)
    model.add_adapter("mine", small_config(**network, train_batch_norm=True, contrastive_weight=0.1))
    other, mine = bits(model.adapters["other"]), bits(model.adapters["mine"])
    train(model, "mine", steps=6)
    assert same_bits(bits(model.adapters["other"]), other)
    assert all(p.grad is None for p in model.adapters["other"].parameters())
    adapter = model.adapters["mine"]
    stays = {name for name, p in adapter.named_parameters() if name not in adapter.trainable}
    stays |= {n for n in mine if network["tuning"] == "full" and n.startswith("encoder.") and "classifier" in n}
    unchanged = {name for name, tensor in bits(adapter).items() if torch.equal(tensor, mine[name])}
    unchanged -= {name for name in mine if name.endswith(".start_decay")}  # where `a` started is no parameter
    assert unchanged == stays  # the classifier in a copy of the whole backbone is no part of the encoder
    assert all(name.startswith("encoder.") for name in stays)
    assert len(unchanged) < len(mine) / 2


@NETWORKS
@pytest.mark.parametrize("train_batch_norm", [True, False])
def test_statistics_of_an_adapters_copies_follow_its_data_only_when_asked_to(network, train_batch_norm):
    model = wrap(**network, train_batch_norm=train_batch_norm)
    before = bits(model.adapters["default"])
    train(model)
    after = bits(model.adapters["default"])
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    moved = {name for name in statistics if not torch.equal(before[name], after[name])}
    assert moved == (set(statistics) if train_batch_norm else set())
    train(model.eval(), steps=0)
    model(pixels())
    assert same_bits(bits(model.adapters["default"]), after)  # not when reading


@NETWORKS
def test_every_parameter_that_requires_a_gradient_gets_one(network):  # promise 7: DistributedDataParallel waits for all
    model = wrap(**network)
    model.add_adapter("mine", small_config(**network, contrastive_weight=0.0))
    model.train_adapter("mine")
    model.train()(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2])).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    owners = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert owners == {"adapter:mine"}


def test_a_fresh_adapter_beside_one_that_trains_waits_until_it_is_trained():  # promise 7
    model = wrap(adapter_name="one")
    model.add_adapter("two", small_config())
    assert not any(p.requires_grad for p in model.adapters["two"].parameters())
    for name in ("one", "two"):
        model.train_adapter(name)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained == {f"adapters.adapter:{name}.{n}" for n in model.adapters[name].trainable}
    model.delete_adapter("two")
    model.add_adapter("three", small_config())
    assert {p.requires_grad for p in model.adapters["three"].parameters()} == {True}
    model.add_adapter("four", small_config())
    model.set_adapter("three")
    model.train()(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


NAMES = [
    "a",
    "ab",
    "default",
    "default2",
    "x.y",
    "x",
    "training",
    "forward",
    "0",
    "head",
    "keys",
    "a-b",
    "x%2Ey"[:1] + "2Ey",
]


def test_names_that_contain_each_other_never_leak():  # promise 8
    model = wrap(adapter_name=NAMES[0]).eval()
    for name in NAMES[1:]:
        model.add_adapter(name, small_config())
    fresh = bits(model.adapters[NAMES[0]])
    for name in NAMES:  # the name has no influence on initial values
        assert same_bits(bits(model.adapters[name]), fresh), name
    for name in NAMES:
        before = {other: bits(model.adapters[other]) for other in NAMES if other != name}
        train(model, name, steps=1)
        assert not same_bits(bits(model.adapters[name]), fresh)
        for other, state in before.items():
            assert same_bits(bits(model.adapters[other]), state), (name, other)
    for name in NAMES[1:]:
        model.delete_adapter(name)
        assert name not in model.adapters
    assert list(model.adapters) == NAMES[:1]


def test_the_name_has_no_influence_on_what_is_saved(tmp_path):  # promise 8
    for name in ("a", "x.y"):
        train(wrap(adapter_name=name), steps=0).save_pretrained(tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "x.y" / file).read_bytes()


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/b", "..", None, "__base__"], ids=repr)
def test_a_name_that_could_leave_the_folder_is_refused_before_anything_changes(name, tmp_path):  # promise 8
    backbone = tiny_backbone().train()
    modes = [m.training for m in backbone.modules()]
    with pytest.raises(AdapterNameError):
        get_ciao_model(backbone, small_config(), name)
    assert [m.training for m in backbone.modules()] == modes
    assert all(p.requires_grad for p in backbone.parameters())
    model = wrap(backbone)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(AdapterNameError):
        model.add_adapter(name, small_config())
    if name is not None:  # without a name, the folder's is taken
        with pytest.raises(AdapterNameError):
            model.load_adapter(tmp_path / "saved", name)
    with pytest.raises((AdapterNameError, AdapterNotFoundError)):
        model.set_adapter(name)
    assert list(model.adapters) == ["default"]


def test_a_duplicate_name_raises_and_changes_nothing(tmp_path):  # promise 9
    model = wrap()
    model.save_pretrained(tmp_path / "default")
    before = bits(model)
    for add in (
        lambda: model.add_adapter("default", small_config(num_labels=8)),
        lambda: model.load_adapter(tmp_path / "default"),
    ):
        with pytest.raises(
            AdapterNameError, match=r"named 'default' is loaded already. Loaded adapters: 'default'. Choose"
        ):
            add()
    assert same_bits(bits(model), before)
    assert model.peft_config["default"].num_labels == 3


def test_deleting_leaves_no_trace_and_no_adapter_chosen_in_its_place():  # promise 9
    model = wrap(adapter_name="one")
    before = {name: vars(m).keys() for name, m in model.named_modules()}
    opened = len(model._frozen._opened)
    model.add_adapter("two", small_config(target_modules=("0",)))
    model.delete_adapter("two")
    assert model.active_adapter == "one"
    assert {name: vars(m).keys() for name, m in model.named_modules()} == before
    assert len(model._frozen._opened) == opened
    model.add_adapter("two", small_config())
    model.delete_adapter("one")
    assert model.active_adapter is None
    with pytest.raises(NoActiveAdapterError, match=r"No adapter is active. Loaded adapters: 'two'. Choose one with"):
        model(pixels())
    model.add_adapter("one", small_config())
    assert model.active_adapter is None


def test_deleting_the_active_one_does_not_choose_what_another_thread_reads_with():  # promises 9 and 14
    model = wrap(adapter_name="mine")
    model.add_adapter("theirs", small_config())
    other = threading.Thread(target=model.set_adapter, args=("theirs",))
    other.start()
    other.join()
    assert model.active_adapter == "mine"
    model.delete_adapter("mine")
    assert model.active_adapter is None


def test_an_unknown_name_lists_the_loaded_ones():  # promise 9
    model = wrap(adapter_name="jaffe").eval()
    model.add_adapter("fer", small_config())
    message = r"No adapter named 'ckplus'. Loaded adapters: 'fer', 'jaffe'. Load one with `model.load_adapter\(folder"
    for use in (
        lambda: model.set_adapter("ckplus"),
        lambda: model.train_adapter("ckplus"),
        lambda: model.delete_adapter("ckplus"),
        lambda: model.adapter_parameters("ckplus"),
        lambda: model.save_pretrained("nowhere", "ckplus"),
        lambda: model.read(pixels(), adapter_names=["jaffe", "ckplus"]),
        lambda: model(pixels(2), adapter_names=["jaffe", "ckplus"]),
    ):
        with pytest.raises(AdapterNotFoundError, match=message):
            use()
    assert model.active_adapter == "jaffe"


def test_selecting_for_inference_flips_no_requires_grad():  # promise 10
    model = wrap(adapter_name="one")
    model.add_adapter("two", small_config())
    model.train_adapter("one")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.eval()
    model.set_adapter("two")
    model(pixels())
    model.read(pixels())
    model(pixels(2), adapter_names=["one", "two"])
    with model.disable_adapter():
        model(pixels())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    model.train_adapter("two")
    assert {name: p.requires_grad for name, p in model.named_parameters()} != before


@BACKBONES
def test_heads_of_different_size_live_side_by_side(make):  # promise 11
    model = worlds(make)
    shapes = {name: tuple(logits.shape) for name, logits in model.read(pixels()).items()}
    assert shapes == {
        "classes": (4, 8),
        "values": (4, 2),
        "labels": (4, 8),
        "own": (4, 3),
        "early": (4, 3),
        "encoder": (4, 3),
    }


@BACKBONES
def test_perturbing_any_part_of_an_adapter_changes_its_output_and_no_other(make):  # no test here passes blind
    model = worlds(make)
    before = model.read(pixels())
    for name, adapter in model.adapters.items():
        for parameter_name in adapter.trainable:
            parameter = adapter.get_parameter(parameter_name)
            kept = parameter.detach().clone()
            parameter.data += 0.5 * torch.rand_like(parameter) + 0.1
            after = model.read(pixels())
            for other in model.adapters:
                assert torch.equal(after[other], before[other]) is (other != name), (name, parameter_name, other)
            parameter.data.copy_(kept)


@BACKBONES
def test_a_deep_copy_is_equal_and_independent(make):  # promise 14
    model = worlds(make)
    expected = model.read(pixels())
    other = copy.deepcopy(model)
    assert other.active_adapter == "classes"
    assert same_bits(bits(other), bits(model))
    before = bits(model)
    for name in other.adapters:
        train(other, name, steps=1)
    other.delete_adapter("own")
    with torch.no_grad():
        for tensor in other.backbone.state_dict().values():
            tensor.zero_()
    assert same_bits(bits(model), before)
    assert all(torch.equal(logits, expected[name]) for name, logits in model.read(pixels()).items())


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pickle_is_equal_and_independent(make, dtype):  # promise 14
    model = wrap(make()).eval()
    model.add_adapter("own", small_config(tuning="last_conv"))
    train(model, "own").eval()
    model.backbone.to(dtype)  # after the cut was made
    other = pickle.loads(pickle.dumps(model))
    assert other.active_adapter == "own"
    expected = model(pixels()).logits
    assert torch.equal(other(pixels()).logits, expected)
    train(other)
    assert torch.equal(model(pixels()).logits, expected)
    assert not torch.equal(other(pixels()).logits, expected)


@pytest.mark.parametrize("make", [tiny_backbone, Undecided])
def test_two_threads_with_different_adapters_get_what_they_would_get_alone(make):  # promise 14
    model = wrap(make(), "one").eval()
    model.add_adapter("two", small_config(problem_type="regression", num_labels=2, decay_init=0.3))
    expected = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        expected[name] = model(pixels()).logits
    start = threading.Barrier(2)
    wrong = []

    def read(name):
        start.wait()
        model.set_adapter(name)
        for _ in range(20):
            with torch.no_grad():
                if not torch.equal(model(pixels()).logits, expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=read, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.usefixtures("no_shape_checks")
def test_a_compiled_model_reads_in_each_thread_as_that_thread_chose():  # promises 14 and 23
    model = wrap(adapter_name="one").eval()
    model.add_adapter("two", small_config(problem_type="regression", num_labels=2, decay_init=0.3))
    expected = {"off": tiny_backbone()(pixels())}
    for name in ("one", "two"):
        model.set_adapter(name)
        expected[name] = model(pixels()).logits
    found, graphs = [], []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()  # what other tests compiled counts towards the limit
    compiled = torch.compile(model, fullgraph=True, backend=keep)
    switched, read_by_all = threading.Barrier(3), threading.Barrier(3)

    def read(name):
        with torch.no_grad(), model.disable_adapter() if name == "off" else contextlib.nullcontext():
            if name != "off":
                model.set_adapter(name)
            switched.wait()
            found.append((name, compiled(pixels())))
            read_by_all.wait()

    for _ in range(2):
        threads = [threading.Thread(target=read, args=(name,)) for name in expected]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    torch.compiler.reset()
    assert sorted(name for name, _ in found) == sorted([*expected] * 2)
    for name, output in found:
        torch.testing.assert_close(output if name == "off" else output.logits, expected[name])
    assert len(graphs) == 3  # one for each choice, found again in the second round
