"""What the figures of a study show; the pictures themselves are looked at by people."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from ciao_peft.errors import MissingExtraError
from ciao_peft.study.analysis.study import CIAO, Study
from ciao_peft.study.report.figures import (
    DPI,
    WIDTH,
    check_plots,
    confusion_figure,
    confusions_shown,
    curves_figure,
    curves_shown,
    learning_curve,
    parameters_figure,
    scores_figure,
    spaced,
)
from helpers.studies import EMOTIONS, HEAD, painted_study, record, records

pytest.importorskip("matplotlib")
PAIR = ("faces", "small-face")
FIGURES = (scores_figure, curves_figure, confusion_figure, parameters_figure)


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def history(*losses: float) -> list[dict[str, float]]:
    return [{"epoch": float(epoch), "task_loss": loss} for epoch, loss in enumerate(losses, start=1)]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(painted_study(2, ablations=False))


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_every_figure_is_a_picture_of_a_pages_width(study, draw):
    pixels = opened(draw(study, *PAIR))
    height, width, _ = pixels.shape
    assert DPI * WIDTH * 0.5 <= width <= DPI * WIDTH * 1.5
    assert height >= 300
    assert pixels.std() > 5  # not blank
    assert (pixels[[0, -1]] == 255).all()  # nothing is cut off at the top and the bottom,
    assert (pixels[:, [0, -1]] == 255).all()  # or at the sides


def test_a_figure_of_scores_grows_with_its_methods():
    few, many = ([f"baseline {n}" for n in range(count)] for count in (2, 12))
    heights = [
        len(opened(scores_figure(Study(records({name: [0.5] for name in names})), *PAIR))) for names in (few, many)
    ]
    assert heights[1] - heights[0] == pytest.approx(10 * 0.26 * DPI, abs=2)


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_where_there_is_nothing_to_draw_there_is_no_figure(draw):
    study = Study([record("m", 0, 0.5, metric="macro_f1", scores={}) for _ in range(2)])
    study.results_by[PAIR]["m"].records[0].scores.clear()
    assert draw(study, *PAIR) is None


def test_no_name_spoils_a_figure():
    names = ["$\\frac{$", "_hidden", "名前", "a\nb\x00\ud800", "x" * 300, "<b>", CIAO]
    more = {"confusion": np.eye(7, dtype=int).tolist(), "labels": names, "history": history(2.0, 1.0)}
    lines = records({name: [0.5, 0.6] for name in names}, parameters={"trained": 9}, **more)
    for draw in FIGURES:
        opened(draw(Study(lines), *PAIR))


def test_one_seed_and_one_method_are_drawn():
    study = Study([record(CIAO, 0, 0.0, confusion=[[0, 0], [2, 0]], labels=["a", "b"], history=history(2.0, 1.0))])
    for draw in (scores_figure, curves_figure, confusion_figure):
        opened(draw(study, *PAIR))


# -- learning curves ---------------------------------------------------------------------------------------------------


def test_a_learning_curve_is_the_mean_of_the_records():
    study = Study([record(HEAD, 0, 0.5, history=history(4.0, 2.0)), record(HEAD, 1, 0.5, history=history(2.0, 2.0))])
    epochs, mean, sd = learning_curve(study.results(*PAIR)[HEAD], "task_loss")
    assert epochs.tolist() == [1.0, 2.0]
    assert mean.tolist() == [3.0, 2.0]
    assert sd.tolist() == pytest.approx([np.sqrt(2), 0.0])


def test_a_learning_curve_has_the_epochs_that_every_seed_has():
    lines = [record(HEAD, 0, 0.5, history=history(4.0, 2.0, 1.0)), record(HEAD, 1, 0.5, history=history(2.0, 0.0))]
    study = Study([*lines, record(HEAD, 2, 0.5)])  # the last has no history at all
    epochs, mean, _ = learning_curve(study.results(*PAIR)[HEAD], "task_loss")
    assert (epochs.tolist(), mean.tolist()) == ([1.0, 2.0], [3.0, 1.0])


def test_one_seed_is_a_curve_without_a_band():
    study = Study([record(HEAD, 0, 0.5, history=history(4.0, 2.0))])
    _, mean, sd = learning_curve(study.results(*PAIR)[HEAD], "task_loss")
    assert (mean.tolist(), sd.tolist()) == ([4.0, 2.0], [0.0, 0.0])
    assert [len(part) for part in learning_curve(study.results(*PAIR)[HEAD], "contrastive_loss")] == [0, 0, 0]


def test_a_single_epoch_is_no_curve():
    assert curves_figure(Study([record(HEAD, 0, 0.5, history=history(4.0))]), *PAIR) is None


def test_curves_are_of_the_networks_and_the_best_baseline():
    study = Study(painted_study(2))
    networks = [HEAD, CIAO, "last convolution", "last convolution + CIAO", "full", "full + CIAO"]
    best = study.best_baseline(*PAIR)
    assert curves_shown(study, *PAIR) == [*networks, *([best] if best not in networks else [])]


def test_where_there_are_few_networks_the_best_baselines_are_beside_them():
    scores = {"a": [0.1], "b": [0.4], "c": [0.3], "d": [0.2], "CIAO, additive": [0.9], HEAD: [0.5]}
    assert curves_shown(Study(records(scores)), *PAIR) == [HEAD, "b", "c", "d"]


# -- confusions --------------------------------------------------------------------------------------------------------


def test_ciaos_confusions_stand_beside_those_of_the_best_baseline():
    shared = {"confusion": [[1, 0], [0, 1]], "labels": ["a", "b"]}
    lines = records({CIAO: [0.8], HEAD: [0.7], "LoRA r=4": [0.9], "full": [0.95]}, **shared)
    assert confusions_shown(Study(lines), *PAIR) == [CIAO, "LoRA r=4"]
    without = [line for line in lines if line.method != "LoRA r=4"]
    assert confusions_shown(Study([*without, record("LoRA r=4", 0, 0.9)]), *PAIR) == [CIAO, HEAD]
    assert confusions_shown(Study(records({CIAO: [0.8]})), *PAIR) == []


def test_a_class_that_is_always_found_is_dark_and_others_are_light():
    """The first row of the picture: all of class 0 found; the second: none of class 1."""
    study = Study([record(HEAD, 0, 0.5, confusion=[[9, 0], [4, 0]], labels=["a", "b"])])
    pixels = opened(confusion_figure(study, *PAIR)).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0] > 60) & (pixels.sum(axis=2) < 300)
    rows, columns = np.nonzero(blue)
    assert np.ptp(columns) < 1.2 * np.ptp(rows) / 2  # one cell wide, two cells high: both classes are taken for class 0


def test_eight_classes_have_eight_names(study):
    assert study.results(*PAIR)[CIAO].records[0].labels == EMOTIONS
    # Two panels with room for the names.
    assert opened(confusion_figure(study, *PAIR)).shape[1] > DPI * 8


# -- names beside points -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_names_beside_points_lie_apart_and_keep_their_order(seed):
    wanted = sorted(np.random.default_rng(seed).random(10).tolist(), reverse=True)
    places = spaced(wanted, 0.08)
    assert (np.diff(places) <= -0.08 + 1e-12).all()
    assert min(places) >= 0
    assert max(places) <= 1


def test_names_with_room_stay_where_their_points_are():
    assert spaced([0.9, 0.5, 0.1], 0.2) == [0.9, 0.5, 0.1]
    assert spaced([], 0.2) == []


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ciao_peft\[study\]'"):
        check_plots()
