"""What an adapter promises to the backbone, to other adapters and to whoever counts on its numbers.

Promises 15 to 18 and 20, about what is saved, are in test_checkpoints.py.
"""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
import warnings

import pytest
import torch
from torch import nn

from ciao_peft.errors import (
    AdapterNameError,
    AdapterNotFoundError,
    BackboneError,
    CIAOError,
    ConfigError,
    InputError,
    MergeError,
    NoActiveAdapterError,
    TargetModulesError,
    UntraceableBackboneError,
)
from ciao_peft.model import CIAOModel, get_ciao_model
from fakes import SIZE, pixels, residual_backbone, small_config, tiny_backbone

BACKBONES = pytest.mark.parametrize("make", [tiny_backbone, residual_backbone], ids=["chain", "residual"])
NETWORKS = pytest.mark.parametrize(
    "network",
    [{"tuning": t, "inhibition": i} for t in ("decision_layer", "last_conv", "full") for i in (True, False)],
    ids=lambda n: n["tuning"] + ("" if n["inhibition"] else "-without"),
)


class Undecided(nn.Module):
    """A network that looks at what it computes: its graph cannot be traced."""

    def __init__(self):
        super().__init__()
        self.chain = tiny_backbone()
        self.input_size = SIZE

    def forward(self, x):
        return self.chain(x if x.mean() > -100 else -x)


def wrap(backbone=None, adapter_name="default", **changes):
    return get_ciao_model(tiny_backbone() if backbone is None else backbone, small_config(**changes), adapter_name)


def train(model, name=None, steps=3, learning_rate=0.05):
    """A few real optimiser steps, after which every trained value is another one."""
    if name is not None:
        model.train_adapter(name)
    config = model.peft_config[model.active_adapter]
    labels = {
        "single_label_classification": torch.tensor([0, 0, 1, 1, 2, 2]),
        "regression": torch.rand(6, config.num_labels),
        "multi_label_classification": (torch.rand(6, config.num_labels) > 0.5).float(),
    }[config.problem_type]
    was_training = model.training
    model.train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        model(torch.rand(6, *SIZE), labels=labels).loss.backward()
        optimiser.step()
    return model.train(was_training)


def bits(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def hooks(module):
    return sum(
        len(getattr(m, kind))
        for m in module.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )


def trunk_calls(backbone, do):
    """How often the backbone's first convolution ran."""
    calls = []
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    handle = first.register_forward_hook(lambda *_: calls.append(1))
    try:
        do()
    finally:
        handle.remove()
    return len(calls)


# -- the backbone is borrowed, never changed -----------------------------------------------------------------------


@BACKBONES
@NETWORKS
def test_disabled_it_is_the_backbone_bit_for_bit_also_after_training(make, network):  # promise 1
    expected = make()(pixels())
    model = wrap(make(), **network).eval()
    train(model)
    with model.disable_adapter():
        assert torch.equal(model(pixels()), expected)


def test_what_was_before_comes_back_after_disabling_nested_and_after_an_exception():  # promise 1
    model = wrap().eval()
    backbone, adapted = tiny_backbone()(pixels()), model(pixels()).logits
    with model.disable_adapter():
        with model.disable_adapter():
            assert torch.equal(model(pixels()), backbone)
        assert torch.equal(model(pixels()), backbone)
    assert torch.equal(model(pixels()).logits, adapted)
    with pytest.raises(ZeroDivisionError), model.disable_adapter():
        raise ZeroDivisionError
    assert torch.equal(model(pixels()).logits, adapted)
    assert model.active_adapter == "default"


def test_disabled_in_one_thread_it_still_reads_in_another():  # promises 1 and 14
    model = wrap().eval()
    expected = model(pixels()).logits
    found = []
    with model.disable_adapter():
        reader = threading.Thread(target=lambda: found.append(model(pixels()).logits))
        reader.start()
        reader.join()
    assert torch.equal(found[0], expected)


@BACKBONES
@NETWORKS
def test_wrapping_and_training_change_no_key_and_no_bit_of_the_backbone(make, network):  # promises 2 and 3
    backbone = make()
    before = bits(backbone)
    model = wrap(backbone, **network, train_batch_norm=True)
    assert model.backbone is backbone
    model.train()
    train(model)
    model.eval()
    assert same_bits(bits(backbone), before)
    assert all(parameter.grad is None for parameter in backbone.parameters())
    backbone.load_state_dict(make(seed=5).state_dict())  # a plain checkpoint still loads
    assert same_bits(bits(backbone), bits(make(seed=5)))


def test_the_backbone_stays_as_it_is_even_when_it_is_put_into_training_mode():  # promise 3
    backbone = tiny_backbone()
    model = wrap(backbone)
    before = bits(backbone)
    backbone.train()
    train(model)
    assert same_bits(bits(backbone), before)


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
def test_unloading_leaves_no_trace(make):  # promise 4
    backbone = make()
    backbone.train()
    [*backbone.modules()][3].eval()
    next(backbone.parameters()).requires_grad_(False)
    before = bits(backbone)
    modes = {name: m.training for name, m in backbone.named_modules()}
    gradients = {name: p.requires_grad for name, p in backbone.named_parameters()}
    attributes = {name: sorted(vars(m)) for name, m in backbone.named_modules()}
    model = wrap(backbone)
    train(model)
    assert model.unload() is backbone
    assert hooks(backbone) == 0
    assert same_bits(bits(backbone), before)
    assert {name: m.training for name, m in backbone.named_modules()} == modes
    assert {name: p.requires_grad for name, p in backbone.named_parameters()} == gradients
    assert {name: sorted(vars(m)) for name, m in backbone.named_modules()} == attributes


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_training_mode_is_what_the_user_set(training, tmp_path):  # promise 5
    model = wrap(tiny_backbone().train(training))
    assert model.training is training
    model.save_pretrained(tmp_path / "saved")
    model.add_adapter("other", small_config())
    model.load_adapter(tmp_path / "saved", "loaded")
    model.set_adapter("loaded")
    assert model.training is training
    assert not any(m.training for m in model.backbone.modules())
    assert all(adapter.head.training is training for adapter in model.adapters.values())
    loaded = CIAOModel.from_pretrained(tiny_backbone().train(training), tmp_path / "saved")
    assert loaded.training is training


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
@NETWORKS
def test_the_global_random_state_stays_where_it_is(make, network, tmp_path):  # promise 6
    backbone = make()
    state = torch.get_rng_state()
    model = wrap(backbone, **network)
    model.add_adapter("other", small_config())
    model.save_pretrained(tmp_path / "saved")
    model.load_adapter(tmp_path / "saved", "loaded")
    CIAOModel.from_pretrained(backbone, tmp_path / "saved")
    model.eval()(pixels())
    assert torch.equal(torch.get_rng_state(), state)


# -- adapters never touch each other -------------------------------------------------------------------------------


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
    assert unchanged == stays  # the classifier in a copy of the whole backbone is no part of the encoder
    assert all(name.startswith("encoder.") for name in stays)
    assert len(unchanged) < len(mine) / 2


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
    opened = len(model._opened)
    model.add_adapter("two", small_config(target_modules=("0",)))
    model.delete_adapter("two")
    assert model.active_adapter == "one"
    assert {name: vars(m).keys() for name, m in model.named_modules()} == before
    assert len(model._opened) == opened
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


def worlds(make=tiny_backbone):
    """One adapter of each problem, trained, on one backbone."""
    model = wrap(make(), "classes", num_labels=8)
    model.add_adapter("values", small_config(problem_type="regression", num_labels=2, hidden_sizes=()))
    model.add_adapter("labels", small_config(problem_type="multi_label_classification", num_labels=8, inhibition=False))
    model.add_adapter("own", small_config(tuning="last_conv"))
    model.add_adapter("early", small_config(target_modules=("0",) if make is tiny_backbone else ("conv1",)))
    model.add_adapter("encoder", small_config(tuning="full"))
    for name in model.adapters:
        train(model, name, steps=2)
    model.set_adapter("classes")
    return model.eval()


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
@pytest.mark.parametrize("source", ["pixels", "features"])
def test_a_mixed_batch_is_each_adapters_result_row_by_row(make, source):  # promise 12
    model = worlds(make)
    names = ["values", "classes", "__base__", "classes", "own", "labels"]
    if source == "pixels":
        names += ["encoder", "early", "early", "__base__"]
    images = pixels(len(names))
    given = {"pixel_values": images} if source == "pixels" else {"features": model.extract_features(images)}
    mixed = model(**given, adapter_names=names)
    base = make()(images)
    for row, name in enumerate(names):
        if name == "__base__":
            torch.testing.assert_close(mixed.logits[row], base[row], rtol=1e-5, atol=1e-6)
            assert mixed.embeddings[row] is None
            continue
        model.set_adapter(name)
        alone = model(images[row : row + 1])
        torch.testing.assert_close(mixed.logits[row], alone.logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mixed.embeddings[row], alone.embeddings[0], rtol=1e-5, atol=1e-5)


def test_a_mixed_batch_on_a_backbone_that_cannot_be_traced():  # promise 12
    model = wrap(Undecided()).eval()
    model.add_adapter("other", small_config(init_seed=1, decay_init=0.5))
    mixed = model(pixels(3), adapter_names=["other", "__base__", "default"])
    assert not model.traceable
    torch.testing.assert_close(mixed.logits[1], Undecided()(pixels(3))[1])
    for row, name in ((0, "other"), (2, "default")):
        model.set_adapter(name)
        torch.testing.assert_close(mixed.logits[row], model(pixels(3)).logits[row])


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
@pytest.mark.parametrize("source", ["pixels", "features"])
def test_a_mixed_batch_that_cannot_be_right_is_refused_on_every_path(make, source):  # promise 12
    model = wrap(make()).eval()
    if source == "features" and make is Undecided:
        with pytest.raises(UntraceableBackboneError, match="could not be traced"):
            model.extract_features(pixels(3))
        return
    given = {"pixel_values": pixels(3)} if source == "pixels" else {"features": model.extract_features(pixels(3))}
    for names in (["default"] * 2, ["default"] * 4, []):
        with pytest.raises(InputError, match=f"must name an adapter for each of the 3 rows; got {len(names)}"):
            model(**given, adapter_names=names)
    with pytest.raises(InputError, match="takes one name per row, a list; got the text 'default'"):
        model(**given, adapter_names="default")
    with pytest.raises(AdapterNotFoundError, match="No adapter named 'defaul'"):
        model(**given, adapter_names=["default", "defaul", "default"])
    with pytest.raises(InputError, match="A mixed batch has no loss"):
        model(**given, labels=torch.tensor([0, 1, 2]), adapter_names=["default"] * 3)
    model.train()
    with pytest.raises(InputError, match=r"A mixed batch is for inference: .* Call `model.eval\(\)` first"):
        model(**given, adapter_names=["default"] * 3)
    with pytest.raises(InputError, match="read is for inference"):
        model.read(**given)


@BACKBONES
def test_all_adapters_on_one_cut_share_one_trunk_pass_and_equal_separate_calls(make):  # promise 13
    model = worlds(make)
    shared = ["classes", "values", "labels", "own"]
    separate = {}
    for name in model.adapters:
        model.set_adapter(name)
        separate[name] = model(pixels()).logits
    assert trunk_calls(model.backbone, lambda: model.read(pixels(), adapter_names=shared)) == 1
    assert (
        trunk_calls(model.backbone, lambda: model(pixels(), adapter_names=["values", "classes", "__base__", "own"]))
        == 1
    )
    assert trunk_calls(model.backbone, lambda: model.read(pixels(), adapter_names=["encoder"])) == 0
    found = model.read(pixels())
    assert list(found) == list(model.adapters)
    for name, logits in found.items():
        assert torch.equal(logits, separate[name]), name


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


# -- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@BACKBONES
@NETWORKS
def test_backbones_in_other_dtypes_work(make, network, dtype):  # promise 21
    model = wrap(make().to(dtype), **network).eval()
    output = model(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    assert output.logits.dtype == dtype
    assert output.embeddings.dtype == output.loss.dtype == torch.float32
    exact = wrap(make(), **network).eval()(pixels(6)).logits
    torch.testing.assert_close(output.logits.float(), exact, rtol=0.05, atol=0.05)
    train(model)
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.adapters["default"].parameters())
    assert {t.dtype for t in model.backbone.state_dict().values() if t.is_floating_point()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("decay", [1e-5, 1e6])
@pytest.mark.parametrize("loudness", [0.0, 1e-3, 1e3])
def test_denominators_near_zero_or_huge_give_finite_outputs_and_gradients(dtype, decay, loudness):  # promise 21
    model = wrap(tiny_backbone().to(dtype), decay_init=decay).eval()
    output = model(loudness * pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    assert output.logits.isfinite().all()
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("mixed_precision", [torch.bfloat16, torch.float16], ids=str)
@NETWORKS
def test_training_under_autocast_keeps_parameters_finite_and_in_float32(network, mixed_precision):  # promise 21
    model = wrap(**network).train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        with torch.autocast("cpu", mixed_precision):
            output = model(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
        assert output.loss.dtype == torch.float32
        output.loss.backward()
        optimiser.step()
    for parameter in model.adapters["default"].parameters():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()


CONVOLUTIONS = {
    "grouped": nn.Conv2d(8, 12, 3, groups=4),
    "depthwise": nn.Conv2d(8, 8, 3, groups=8),
    "dilated": nn.Conv2d(8, 12, 3, dilation=2),
    "strided": nn.Conv2d(8, 12, 3, stride=2),
    "padded": nn.Conv2d(8, 12, (1, 3), padding=(0, 2), padding_mode="reflect"),
    "same": nn.Conv2d(8, 12, 5, padding="same"),
    "1x1": nn.Conv2d(8, 12, 1, bias=False),
}


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_every_kind_of_convolution_carries_a_mask(conv, tmp_path):  # promise 22
    def network():
        backbone = tiny_backbone()
        return nn.Sequential(*backbone[:3], copy.deepcopy(conv), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    backbone = network()
    model = get_ciao_model(backbone, small_config(tuning="last_conv"), input_size=SIZE)
    fresh = model.eval()(pixels()).logits
    train(model).eval()
    trained = model(pixels()).logits
    assert not torch.equal(fresh, trained)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(CIAOModel.from_pretrained(network(), tmp_path / "saved").eval()(pixels()).logits, trained)


@pytest.mark.parametrize(
    ("backbone", "targets", "error", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
            None,
            BackboneError,
            "has no convolution with an output larger",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten()),
            None,
            BackboneError,
            "has no convolution with an output larger",
        ),
        (nn.Flatten(), None, BackboneError, "has no parameters"),
        (lambda x: x, None, BackboneError, "A backbone is an nn.Module without adapters; got function"),
        (nn.Conv2d(4, 4, 3), None, BackboneError, r"cannot be called on pixels of \(3, 16, 16\)"),
        (
            tiny_backbone(),
            ("layer4",),
            TargetModulesError,
            "names 'layer4', which matches no module. .* end with: 0, 3",
        ),
        (tiny_backbone(), ("4",), TargetModulesError, "names '4', a BatchNorm2d; a mask sits on a Conv2d"),
        (tiny_backbone(), ("0", "3"), TargetModulesError, "names '0', which feeds '3'"),
        (residual_backbone(), ("conv",), TargetModulesError, "names 'conv', which matches no module"),
        (Undecided(), ("conv2",), TargetModulesError, "names 'conv2', which matches no module"),
    ],
)
def test_a_backbone_or_target_that_carries_no_mask_is_refused_before_anything_changes(
    backbone, targets, error, message
):  # promise 22
    is_module = isinstance(backbone, nn.Module)
    if is_module:
        backbone.train()
        before = bits(backbone)
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        get_ciao_model(backbone, small_config(target_modules=targets), input_size=SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    if is_module:
        assert same_bits(bits(backbone), before)
        assert all(m.training for m in backbone.modules())
        assert all(p.requires_grad for p in backbone.parameters())
        assert hooks(backbone) == 0


def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was():  # promise 22
    model = wrap()
    before, opened = bits(model), set(model._opened)
    with pytest.raises(TargetModulesError):
        model.add_adapter("other", small_config(target_modules=("9",)))
    assert same_bits(bits(model), before)
    assert set(model._opened) == opened
    assert list(model.adapters) == ["default"]


def test_a_model_is_no_backbone():  # promise 22
    with pytest.raises(BackboneError, match="More adapters go onto a CIAOModel with `add_adapter`"):
        wrap(wrap())


@BACKBONES
def test_compiled_it_gives_the_same_outputs(make):  # promise 23
    model = wrap(make(), "one").eval()
    model.add_adapter("two", small_config(num_labels=5, tuning="last_conv", pooling="flatten"))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for name in ("one", "two", "one"):
            model.set_adapter(name)
            torch.testing.assert_close(compiled(pixels()).logits, model(pixels()).logits)
        with model.disable_adapter():
            assert torch.equal(compiled(pixels()), make()(pixels()))


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler to compile with")
def test_compiled_to_machine_code_it_gives_the_same_outputs():  # promise 23
    model = wrap(residual_backbone()).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(pixels()).logits, model(pixels()).logits, rtol=1e-5, atol=1e-5)


@BACKBONES
@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv"])
@pytest.mark.parametrize("inhibition", [True, False], ids=["ciao", "without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_features_give_the_outputs_and_gradients_of_pixels(make, tuning, inhibition, dtype):  # promise 24
    model = wrap(make().to(dtype), tuning=tuning, inhibition=inhibition, dropout=0.0).train()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    features = model.extract_features(pixels(6))
    assert all(len(f) == 6 and not f.requires_grad for f in features)
    results = []
    for given in ({"pixel_values": pixels(6)}, {"features": features}):
        model.zero_grad()
        output = model(**given, labels=labels)
        output.loss.backward()
        results.append((output, [p.grad.clone() for p in model.parameters() if p.requires_grad]))
    (live, live_gradients), (cached, cached_gradients) = results
    assert torch.equal(live.logits, cached.logits)
    assert torch.equal(live.embeddings, cached.embeddings)
    assert torch.equal(live.loss, cached.loss)
    assert all(torch.equal(one, other) for one, other in zip(live_gradients, cached_gradients, strict=True))
    assert any(g.any() for g in live_gradients)


def test_features_row_by_row_are_features_of_the_batch():  # promise 24: a cache stores rows
    model = wrap(residual_backbone()).eval()
    whole = model.extract_features(pixels())
    rows = [model.extract_features(pixels()[i : i + 1]) for i in range(4)]
    for place, tensor in enumerate(whole):
        torch.testing.assert_close(torch.cat([row[place] for row in rows]), tensor, rtol=1e-5, atol=1e-6)


def test_features_mean_nothing_to_an_adapter_with_an_encoder_of_its_own():  # promise 24
    model = wrap(tuning="full").eval()
    features = model.extract_features(pixels())
    with pytest.raises(InputError, match=r"'default' owns its whole encoder \(tuning='full'\).* give `pixel_values`"):
        model(features=features)


def test_merging_says_that_it_is_impossible():  # promise 25
    model = wrap()
    before = bits(model)
    with pytest.raises(MergeError, match=r"cannot be merged into the backbone: M = u / \(a \+ I\) is no convolution"):
        model.merge_and_unload()
    assert same_bits(bits(model), before)
    assert issubclass(MergeError, NotImplementedError)


# -- reading, and what cannot be read ------------------------------------------------------------------------------


@BACKBONES
def test_a_fresh_adapter_computes_equation_1_on_the_backbones_own_maps(make):
    model = get_ciao_model(make(), small_config(decay_init=0.5, pooling="flatten", embedding_source="features")).eval()
    maps = {}
    backbone = make()
    if make is tiny_backbone:
        backbone[5].register_forward_hook(lambda m, i, output: maps.update(u=output))
        backbone(pixels())
        expected = maps["u"] / (0.5 + maps["u"])
        expected = nn.functional.max_pool2d(expected, 2)
    else:
        backbone.bn2.register_forward_hook(lambda m, i, output: maps.update(u=output.clone()))
        backbone.stem.register_forward_hook(lambda m, i, output: maps.update(shortcut=output.clone()))
        backbone(pixels())
        expected = (maps["u"] / (0.5 + maps["u"].clamp(min=0)) + maps["shortcut"]).clamp(min=0)
    torch.testing.assert_close(model(pixels()).embeddings, expected.flatten(1))


@pytest.mark.parametrize("source", ["features", "hidden", "logits"])
def test_the_loss_is_the_sum_of_equation_5(source):
    model = wrap(embedding_source=source, contrastive_weight=0.3, temperature=0.2).eval()
    output = model(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    task = nn.functional.cross_entropy(output.logits, torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(output.task_loss, task)
    torch.testing.assert_close(output.loss, output.task_loss + 0.3 * output.contrastive_loss)
    assert output.contrastive_loss > 0
    sizes = {"features": 12 * 2 * 2, "hidden": 16, "logits": 3}
    assert output.embeddings.shape == (6, sizes[source])


def test_without_labels_there_is_no_loss_and_without_weight_no_contrastive_loss():
    output = wrap().eval()(pixels())
    assert output.loss is output.task_loss is output.contrastive_loss is None
    output = wrap(contrastive_weight=0.0).eval()(pixels(2), labels=torch.tensor([0, 0]))
    assert output.contrastive_loss is None
    assert output.loss is output.task_loss


@pytest.mark.parametrize("size", [1, 2])
def test_training_on_a_batch_of_one_class_or_of_one_changes_the_adapter(size):
    model = wrap().train()
    model(pixels(size), labels=torch.zeros(size, dtype=torch.long)).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model.adapters["default"].inhibition[0].raw_decay.grad.any()


@pytest.mark.parametrize("make", [tiny_backbone, Undecided])
@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (torch.rand(2, 1, 16, 16), r"must be \(B, 3, 16, 16\) .* got \(2, 1, 16, 16\). Gray pictures need three"),
        (torch.rand(2, 3, 16, 17), r"must be \(B, 3, 16, 16\) with B of 1 or more; got \(2, 3, 16, 17\)"),
        (torch.rand(3, 16, 16), r"must be \(B, 3, 16, 16\) with B of 1 or more; got \(3, 16, 16\)"),
        (torch.rand(0, 3, 16, 16), r"with B of 1 or more; got \(0, 3, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "must be floating point, .* got torch.uint8"),
        (torch.full((2, 3, 16, 16), torch.nan), "holds NaN or infinite values, first in row 0"),
        ([[0.0]], "must be a tensor; got list. `model.predict` takes files and images"),
        (None, "Give either `pixel_values` or `features`"),
    ],
    ids=["gray", "wide", "one", "none", "bytes", "nan", "list", "nothing"],
)
def test_pixels_that_no_adapter_could_be_right_about_are_refused(make, pixel_values, message):
    model = wrap(make()).eval()
    uses = [lambda: model(pixel_values), lambda: model(pixel_values, adapter_names=["default"] * 2)]
    if pixel_values is not None:
        uses += [lambda: model.read(pixel_values)]
    for use in uses:
        with pytest.raises(InputError, match=message):
            use()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [*f, f[0]], r"`features` of this backbone are \(B, 8, 8, 8\) with one B of 1 or more; got"),
        (lambda f: [f[0][:, :4]], r"`features` of this backbone are \(B, 8, 8, 8\) .* got \[\(4, 4, 8, 8\)\]"),
        (lambda f: [f[0][:0]], "with one B of 1 or more"),
        (lambda f: [f[0].long()], "are the floating-point tensors that `extract_features` returns"),
        (lambda f: [f[0] / 0], "`features` hold NaN or infinite values"),
    ],
    ids=["more", "narrow", "empty", "long", "nan"],
)
def test_features_of_another_cut_are_refused(change, message):
    model = wrap().eval()
    features = change(model.extract_features(pixels()))
    for use in (lambda: model(features=features), lambda: model.read(features=features)):
        with pytest.raises(InputError, match=message):
            use()


def test_labels_of_another_batch_or_problem_are_refused():
    model = wrap()
    before = bits(model)
    for labels in (torch.tensor([0, 1]), torch.tensor([0, 1, 2, 3]), torch.rand(4, 2)):
        with pytest.raises(InputError):
            model(pixels(), labels=labels)
    assert same_bits(bits(model), before)


def test_unknown_settings_raise():
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        small_config().from_dict({**small_config().to_dict(), "temperatur": 1})
    with pytest.raises(TypeError):
        small_config(temperatur=1)


def test_every_error_says_that_it_is_ours_and_what_it_is():
    for error, builtin in ((AdapterNotFoundError, LookupError), (InputError, ValueError), (BackboneError, ValueError)):
        assert issubclass(error, CIAOError)
        assert issubclass(error, builtin)


def test_parameter_groups_hold_every_trained_parameter_once():
    for tuning in ("decision_layer", "last_conv", "full"):
        model = wrap(tuning=tuning)
        groups = model.adapter_parameters("default")
        assert {name for name, group in groups.items() if group} == {"mask", "head"} | (
            {"encoder"} if tuning != "decision_layer" else set()
        )
        grouped = [p for group in groups.values() for p in group]
        assert len({id(p) for p in grouped}) == len(grouped)
        assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_trainable_parameters_are_counted_and_printed(capsys):
    model = wrap()
    # The copied convolution, its batch norm and a; then the head on 12 maps of 2x2 after two poolings.
    expected = 12 * 8 * 9 + 2 * 12 + 12 + (48 + 1) * 16 + (16 + 1) * 3
    trainable, every = model.get_nb_trainable_parameters()
    assert trainable == expected
    assert every == expected + sum(p.numel() for p in model.backbone.parameters())
    model.print_trainable_parameters()
    line = f"trainable params: {trainable:,} || all params: {every:,} || trainable%: {100 * trainable / every:.4f}\n"
    assert capsys.readouterr().out == line
