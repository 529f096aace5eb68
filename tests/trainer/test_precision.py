"""bfloat16 where the processor has instructions for it; elsewhere it is slower than float32, and `True` says so."""

from __future__ import annotations

import warnings

import pytest
import torch

from ciao_peft import CIAOTrainingArguments
from ciao_peft.errors import ConfigError
from ciao_peft.trainer import make_accelerator, precision
from helpers.training import faces, make_trainer

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["without bf16", "with bf16"])
def has_bf16(request, monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: request.param)
    return request.param


def test_auto_takes_it_where_it_helps(has_bf16):
    accelerator = make_accelerator(CIAOTrainingArguments(bf16="auto", report_to="none"))
    assert accelerator.mixed_precision == ("bf16" if has_bf16 else "no")
    trainer = make_trainer(bf16="auto", report_to="none")
    trainer.train(faces())
    assert trainer.training_record()["arguments"]["bf16"] == "auto"


def test_true_warns_where_it_makes_training_slower(has_bf16):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        accelerator = make_accelerator(CIAOTrainingArguments(bf16=True, report_to="none"))
        make_accelerator(CIAOTrainingArguments(report_to="none"))
    assert accelerator.mixed_precision in ("bf16", "no")  # the second call sets the precision of the process
    said = [str(warning.message) for warning in caught if "bfloat16" in str(warning.message)]
    assert len(said) == (0 if has_bf16 else 1)
    if said:
        assert "This processor has no instructions for bfloat16" in said[0] and "bf16='auto'" in said[0]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 avx512f", True),
        ("flags\t\t: fpu avx2 amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f f16c", False),
        ("model name\t: a processor with bf16", False),
        ("", False),
    ],
)
def test_the_flags_of_a_processor_are_read(lines, expected, monkeypatch, tmp_path):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{lines}\n")
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "cpuinfo")
    assert precision._cpu_has_bf16() == expected
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "no such file")
    assert not precision._cpu_has_bf16()


def test_torch_is_asked_first(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "no such file")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert precision.computes_in_bf16(CPU)


def test_a_gpu_is_asked_for_instructions_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or False)
    assert not precision.computes_in_bf16(torch.device("cuda", 0))
    assert asked == [{"including_emulation": False}]


def test_other_words_are_refused():
    with pytest.raises(ConfigError, match="`bf16` must be true, false or 'auto'; got 'maybe'"):
        CIAOTrainingArguments(bf16="maybe")
    with pytest.raises(ConfigError, match="Choose one of `bf16` and `fp16`"):
        CIAOTrainingArguments(bf16="auto", fp16=True)


def computed_in(trainer):
    """The precisions in which the convolutions of a training computed."""
    seen = set()

    def note(module, given, output):
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)

    parts = [module for adapter in trainer.model.adapters.values() for module in adapter.modules()]
    hooks = [module.register_forward_hook(note) for module in parts if isinstance(module, torch.nn.Linear)]
    trainer.train(faces())
    for hook in hooks:
        hook.remove()
    return seen


@pytest.fixture
def no_state():
    """Nothing shared by Accelerate, as at the start of a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield AcceleratorState
    AcceleratorState._reset_state()


def test_every_training_computes_as_its_own_arguments_say(no_state):
    for bf16 in (True, False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # slow on most processors
            trainer = make_trainer(bf16=bf16, report_to="none")
        assert computed_in(trainer) >= {torch.bfloat16 if bf16 else torch.float32}


def test_an_accelerator_of_ones_own_keeps_its_precision(no_state):
    from accelerate import Accelerator

    mine = Accelerator(mixed_precision="bf16")
    trainer = make_trainer(bf16=False, report_to="none")
    assert mine.mixed_precision == "bf16"
    assert torch.bfloat16 not in computed_in(trainer)
    assert mine.mixed_precision == "bf16"
    with mine.autocast():
        assert torch.is_autocast_enabled("cpu")


def test_a_trainer_outlives_what_transformers_clears(no_state):
    """`TrainingArguments` of transformers clears what Accelerate shares."""
    trainer = make_trainer(report_to="none")
    no_state._reset_state()
    assert computed_in(trainer) == {torch.float32}
    assert trainer.evaluate(faces())["eval_loss"] > 0
