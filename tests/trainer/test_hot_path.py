"""An update looks at no value; features on the device, graphs and compiled code give what plain updates give."""

from __future__ import annotations

import math

import pytest
import torch

from ciao_peft import CIAOTrainingArguments, cache_features
from ciao_peft.errors import ConfigError, DataError, DivergenceError, TrainingError
from ciao_peft.features import Augmentation
from ciao_peft.trainer import replay, resident, updates
from ciao_peft.trainer.averaging import WeightAverage
from ciao_peft.trainer.finite import LastFinite, all_finite_there
from ciao_peft.trainer.loop import TrainingLoop
from ciao_peft.trainer.running_loss import RunningLoss
from helpers.graphs import FakeGraphs, NoLooks
from helpers.training import assert_same, faces, make_model, make_trainer, weights

KINDS = {
    "plain": {},
    "last_conv": {"tuning": "last_conv"},
    "batch norm": {"train_batch_norm": True},
    "negatives": {"contrastive_denominator": "negatives"},
    "no mask": {"inhibition": False},
    "simplex": {"contrastive_prototypes": "simplex"},
    "learned": {"contrastive_prototypes": "learned", "contrastive_denominator": "class_average"},
}
ADAPTERS = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)


def trained(model=None, data=None, *, eval_data=None, **settings):
    trainer = make_trainer(model or make_model(dropout=0.3), report_to="none", eval_strategy="no", **settings)
    trainer.train(data or faces())
    return weights(trainer.model)


def stored(model=None, folder=None, data=None, **settings):
    return cache_features(model or make_model(), data or faces(), folder, disable_tqdm=True, **settings)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Values are not at hand, as on a GPU."""
    for module in ("backbone.inputs", "labels"):
        monkeypatch.setattr(f"ciao_peft.{module}.values_at_hand", lambda tensor: False)


@pytest.fixture
def fake_graphs(as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(updates, "check_compile", lambda job: None)
    monkeypatch.setattr("ciao_peft.trainer.loop.check_compile", lambda job: None)
    monkeypatch.setattr(TrainingLoop, "_graphs", lambda loop, device: FakeGraphs())
    monkeypatch.setattr(FakeGraphs, "captures", 0)


def without_looks(monkeypatch, owner, name):
    """Lets a method run where every look at a value raises; counts its calls."""
    method, calls = getattr(owner, name), []

    def watched(*args, **kwargs):
        calls.append(name)
        with NoLooks():
            return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, watched)
    return calls


# -- nobody waits ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_on_a_gpu")
@ADAPTERS
def test_an_update_from_features_on_the_device_looks_at_no_value(changes, monkeypatch):
    model = make_model(dropout=0.3, **changes)
    calls = without_looks(monkeypatch, TrainingLoop, "_update")
    kept = without_looks(monkeypatch, LastFinite, "keep")
    added = without_looks(monkeypatch, WeightAverage, "add")
    trained(model, stored(model), feature_device="device", logging_steps=3, average_last=0.5)
    assert len(calls) == len(added) == 6 and len(kept) == 3


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("settings", [{"optim": "sgd"}, {"max_grad_norm": 0}, {"gradient_accumulation_steps": 2}])
def test_an_update_from_pixels_looks_at_no_value_either(settings, monkeypatch):
    calls = [without_looks(monkeypatch, TrainingLoop, name) for name in ("_micro_batch", "_step")]
    calls.append(without_looks(monkeypatch, RunningLoss, "add"))
    trained(feature_cache="never", **settings)
    assert all(calls)


class Launches(NoLooks):
    """Counts operations that a GPU would launch a kernel for, or several."""

    VIEWS = ("view", "t", "transpose", "slice", "unsqueeze", "expand", "detach", "select", "squeeze", "alias")
    EMPTY = ("as_strided", "_unsafe_view", "permute", "empty_like", "empty", "new_empty", "split", "unbind")
    count = 0

    def run(self, func, args, kwargs):
        self.count += func.overloadpacket.__name__ not in self.VIEWS + self.EMPTY
        return super().run(func, args, kwargs)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_an_update_is_few_launches(monkeypatch):
    """It was 203 operations when nobody counted; on a GPU, small adapters train as fast as the host can launch them."""
    monkeypatch.setattr("ciao_peft.contrastive._counts_by_products", lambda device: True)
    update, counts = TrainingLoop._update, []

    def counted(*args):
        with Launches() as launches:
            update(*args)
        counts.append(launches.count)

    monkeypatch.setattr(TrainingLoop, "_update", counted)
    model = make_model(dropout=0.3)
    trained(model, stored(model), feature_device="device")
    assert max(counts[2:]) <= 142  # seven of them for E and its gradient


def test_the_watch_sees_a_look():
    for look in (lambda t: t.sum().item(), lambda t: bool(t.any()), torch.nonzero, lambda t: t[t > 0]):
        with NoLooks(), pytest.raises(RuntimeError, match="the host would wait"):
            look(torch.ones(3))


def test_the_backbone_is_identified_once_per_training(tmp_path, monkeypatch):
    calls = []
    made_of = "ciao_peft.trainer.loop.what_it_is_made_of"
    from ciao_peft.trainer.job import what_it_is_made_of

    monkeypatch.setattr(made_of, lambda *args: calls.append(1) or what_it_is_made_of(*args))
    trained(output_dir=tmp_path, save_strategy="steps", save_steps=1)
    assert len(calls) == 1


# -- not finite --------------------------------------------------------------------------------------------------------


def test_the_error_names_the_updates_it_may_have_been():
    for every, said in ((1, "at update 3:"), (3, "between updates 1 and 3:")):
        running = RunningLoss(torch.device("cpu"))
        for step, loss in enumerate((1.0, 2.0, math.nan), start=1):
            running.add(torch.full((3,), loss))
            if step % every == 0 and step < 3:
                running.take(step)
        with pytest.raises(DivergenceError, match=f"The loss became nan {said}"):
            running.take(3)


def test_an_adapter_that_breaks_in_its_last_update_is_no_result(monkeypatch):
    model = make_model()
    step = TrainingLoop._step

    def broken_at_the_end(loop):
        step(loop)
        if loop.step == loop.total_steps - 1:
            with torch.no_grad():
                loop.trained[0].fill_(math.nan)

    monkeypatch.setattr(TrainingLoop, "_step", broken_at_the_end)
    with pytest.raises(DivergenceError, match=r"At update 6 .* of update 3"):
        trained(model)
    assert all(tensor.isfinite().all() for tensor in weights(model).values())


def test_what_is_finite_is_decided_without_sums_that_overflow():
    huge = torch.full((4,), 3e38)
    assert all_finite_there([huge, torch.tensor([7]), torch.zeros(0), torch.ones(2, dtype=torch.bfloat16)])
    for bad in (math.nan, math.inf, -math.inf):
        assert not all_finite_there([huge, torch.tensor([0.0, bad])])


def test_a_module_that_is_not_finite_is_never_kept():
    layer = torch.nn.Linear(1, 1)
    kept, before = LastFinite(layer), layer.weight.item()
    layer.weight.data.fill_(math.nan)
    kept.keep(1)
    assert "in memory" not in str(kept.put_back(DivergenceError("Over."), None, None))
    layer.weight.data.fill_(before)
    kept.keep(2)
    layer.weight.data.fill_(math.inf)
    kept.keep(3)
    assert "of update 2" in str(kept.put_back(DivergenceError("Over."), None, None))
    assert layer.weight.item() == before


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_features_that_are_not_finite_are_told_by_their_sample(where):
    model = make_model()
    data = stored(model)
    data.tensors[0][17, 0, 0, 0] = math.inf
    before = weights(model)
    with pytest.raises(DataError, match=r"The stored features of sample 17 hold NaN or infinite values"):
        trained(model, data, feature_device=where)
    if where == "device":  # before the first update
        assert_same(weights(model), before)


# -- features on the device --------------------------------------------------------------------------------------------


VIEWS = {"views": 3, "augment": Augmentation(brightness=0, contrast=0, saturation=0)}


@pytest.mark.parametrize("parts", [{}, VIEWS, {"include_excitation": True}], ids=["one view", "views", "u"])
def test_features_on_the_device_train_the_same_adapter(parts, tmp_path):
    data = stored(folder=tmp_path / "stored", **parts)
    for own in (data, data.select([5, 1, 2, 3, 4, 20, 7, 8, 9, 10])):
        results = [trained(data=own, feature_device=where) for where in ("cpu", "device")]
        assert_same(*results)


def test_clips_on_the_device_train_the_same_adapter():
    def model():
        return make_model(frames=3, recurrent_size=4)

    rows = [[n, n + 1, n + 2] for n in range(20)]
    data = stored(model()).clips(rows)
    assert_same(*(trained(model(), data, feature_device=where) for where in ("cpu", "device")))


def test_evaluation_reads_them_there_too():
    model, logs = make_model(), []
    data = stored(model)
    for where in ("cpu", "device"):
        trainer = make_trainer(make_model(), report_to="none", feature_device=where)
        trainer.train(data, data.select(range(7)))
        logs.append([entry for entry in trainer.log_history if "eval_loss" in entry])
    assert logs[0] == logs[1] and len(logs[0]) == 2


def test_features_that_do_not_fit_stay_or_are_refused(monkeypatch):
    data = stored()
    args = {where: CIAOTrainingArguments(feature_device=where) for where in ("auto", "cpu", "device")}
    monkeypatch.setattr(resident, "_free_bytes", lambda device: 1000)
    assert resident.resident_features(data, torch.device("meta"), args["auto"]) is None
    with pytest.raises(TrainingError, match=r"The stored features take .*, and half of what is free on meta is 500 B"):
        resident.resident_features(data, torch.device("meta"), args["device"])
    monkeypatch.setattr(resident, "_free_bytes", lambda device: 1e12)
    there = resident.resident_features(data, torch.device("meta"), args["auto"])
    assert there is not None and there.tensors[0].device.type == "meta"
    assert resident.resident_features(data, torch.device("meta"), args["cpu"]) is None
    assert resident.resident_features(data, torch.device("cpu"), args["auto"]) is None


# -- graphs ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_graphs")
@ADAPTERS
@pytest.mark.parametrize("settings", [{}, {"optim": "sgd"}, {"gradient_accumulation_steps": 2}], ids=str)
def test_replayed_updates_are_the_updates(changes, settings):
    settings = {"num_train_epochs": 8, "warmup_steps": 3, **settings}
    data = faces(23)  # batches of two sizes
    expected = trained(make_model(dropout=0.3, **changes), data, **settings)
    first, second = (
        trained(make_model(dropout=0.3, **changes), data, compile="cuda-graphs", **settings) for _ in range(2)
    )
    assert FakeGraphs.captures >= 4
    assert_same(first, second)
    for name, tensor in expected.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fake_graphs")
def test_replayed_updates_resume_bit_for_bit_and_leave_no_gradients(tmp_path):
    settings = {"compile": "cuda-graphs", "num_train_epochs": 6, "save_strategy": "steps", "save_steps": 7}
    settings |= {"average_last": 0.9}
    whole = trained(output_dir=tmp_path / "whole", **settings)
    model = make_model(dropout=0.3)
    folder = tmp_path / "whole" / "checkpoint-7"
    assert_same(whole, trained(model, output_dir=tmp_path / "other", resume_from_checkpoint=folder, **settings))
    assert all(parameter.grad is None for parameter in model.adapters["default"].parameters())


@pytest.mark.usefixtures("fake_graphs")
def test_replayed_updates_log_rates_and_norms(tmp_path):
    logs = []
    for how in (False, "cuda-graphs"):
        trainer = make_trainer(report_to="none", num_train_epochs=5, compile=how)
        trainer.train(faces())
        logs.append(trainer.log_history[:-1])
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_an_update_that_cannot_be_captured_is_told():
    called = replay.Replayed(lambda tensor: tensor * tensor.sum().item(), FakeGraphs())
    for _ in range(replay.WARM_UP):
        called(torch.ones(2))
    with pytest.raises(TrainingError, match=r"cannot be captured in a CUDA graph: .* Train with compile=False"):
        called(torch.ones(2))


# -- compiled ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo silences its own look
@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("from_features", [False, True])
def test_compiled_updates_are_the_updates(from_features, monkeypatch):
    monkeypatch.setattr(updates, "BACKEND", "aot_eager")
    data = stored() if from_features else faces()
    settings = {"feature_cache": "never"}
    expected = trained(data=data, **settings)
    first, second = (trained(data=data, compile=True, **settings) for _ in range(2))
    assert_same(first, second)
    for name, tensor in expected.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("no_shape_checks")
def test_what_torch_cannot_compile_is_told(monkeypatch):
    def cannot(graph, example):
        raise ValueError("no compiler here")

    monkeypatch.setattr(updates, "BACKEND", cannot)
    with pytest.raises(TrainingError, match=r"`torch.compile` cannot compile this adapter here: .*no compiler here"):
        trained(compile=True)


def test_where_nothing_can_be_compiled_it_is_refused():
    with pytest.raises(ConfigError, match="compile='cuda-graphs' needs a GPU; this training runs on cpu"):
        trained(compile="cuda-graphs")
    for settings, said in (
        ({"compile": "fast"}, "`compile` must be one of"),
        ({"compile": 1}, "`compile` must be one of"),
        ({"compile": True, "two_steps": True}, "`two_steps` is not compiled"),
        ({"compile": "cuda-graphs", "fp16": True}, "A graph cannot hold the scaling of `fp16`"),
        ({"feature_device": "gpu"}, "`feature_device` must be one of 'auto', 'cpu', 'device'; got 'gpu'"),
    ):
        with pytest.raises(ConfigError, match=said):
            CIAOTrainingArguments(**settings)


def test_neither_setting_is_part_of_what_a_training_is_made_of():
    settings = CIAOTrainingArguments(compile=True, feature_device="cpu").weight_settings()
    assert settings == CIAOTrainingArguments().weight_settings()


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # what inductor imports warns of itself
@pytest.mark.parametrize("how", ["cuda-graphs", "inductor"])
def test_on_a_gpu_the_result_is_that_of_plain_updates(how):
    data = stored(make_model().to("cuda"))
    settings = {"num_train_epochs": 8}
    expected = trained(data=data, **settings)
    first, second = (trained(data=data, compile=how, **settings) for _ in range(2))
    assert_same(first, second)
    for name, tensor in expected.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_on_a_gpu_an_update_makes_no_one_wait(monkeypatch):
    update = TrainingLoop._update

    def watched(loop, *args):
        torch.cuda.set_sync_debug_mode("error" if loop.step else "default")  # the first one makes the optimiser's state
        try:
            update(loop, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TrainingLoop, "_update", watched)
    trained(data=stored(make_model().to("cuda")), logging_steps=99)
