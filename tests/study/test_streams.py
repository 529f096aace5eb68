"""What a stream keeps apart, what is scored after what, and that counting classifiers equal those of whole data."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from ciao_peft.errors import DataError, InputError
from ciao_peft.features import cache_features
from ciao_peft.study.streams import (
    CountingLearner,
    Experience,
    Learner,
    NearestMean,
    Stream,
    StreamingLDA,
    class_incremental,
    frozen_vectors,
    jointly,
    label_shift,
    person_incremental,
    run_stream,
)
from ciao_peft.trainer import CIAOTrainingArguments
from helpers.fakes import pixels, wrap

LABELS = torch.arange(6).repeat(40)
PEOPLE = torch.arange(24).repeat_interleave(10)
HALVES = range(120), range(120, 240)


def clouds(seed=0, size=5, counts=(40, 25, 60)):
    """Correlated clouds of unequal size around other means, in random order."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((size, size))
    rows = [rng.standard_normal((count, size)) @ mixing + 2 * rng.standard_normal(size) for count in counts]
    labels = np.repeat(np.arange(len(counts)), counts)
    order = rng.permutation(len(labels))
    return torch.tensor(np.concatenate(rows)[order]), torch.tensor(labels[order])


# -- what counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shrinkage", [1e-3, 0.2, 1.0])
@pytest.mark.parametrize("at_once", [1, 7, 125])
def test_streaming_lda_equals_scikit_learns_on_the_whole_data(shrinkage, at_once):
    vectors, labels = clouds()
    mine = StreamingLDA(3, 5, shrinkage=shrinkage, priors=True)
    for first in range(0, len(labels), at_once):
        mine.add(vectors[first : first + at_once], labels[first : first + at_once])
        mine.scores(vectors[:1])  # asking on the way changes nothing
    whole = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(vectors.numpy(), labels.numpy())
    asked, _ = clouds(seed=1)
    expected = whole.decision_function(asked.numpy())
    torch.testing.assert_close(mine.scores(asked), torch.tensor(expected), rtol=1e-8, atol=1e-8)


def test_without_priors_all_classes_are_alike():
    vectors, labels = clouds(counts=(50, 50, 50))
    mine = StreamingLDA(3, 5, shrinkage=0.1)
    mine.add(vectors, labels)
    whole = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(vectors.numpy(), labels.numpy())
    asked, _ = clouds(seed=1)
    expected = torch.tensor(whole.decision_function(asked.numpy())) - np.log(1 / 3)
    torch.testing.assert_close(mine.scores(asked), expected, rtol=1e-8, atol=1e-8)
    often = StreamingLDA(3, 5, shrinkage=0.1)
    often.add(torch.cat([vectors, vectors[labels == 0]]), torch.cat([labels, labels[labels == 0]]))
    assert often.means.equal(mine.means) or torch.allclose(often.means, mine.means)


def test_the_nearest_mean_equals_scikit_learns_on_the_whole_data():
    vectors, labels = clouds()
    mine = NearestMean(3, 5)
    for first in range(0, len(labels), 7):
        mine.add(vectors[first : first + 7], labels[first : first + 7])
    asked, _ = clouds(seed=1)
    assert mine.scores(asked).argmax(1).tolist() == NearestCentroid().fit(vectors, labels).predict(asked).tolist()


@pytest.mark.parametrize("classifier", [NearestMean(3, 5), StreamingLDA(3, 5)], ids=["mean", "lda"])
def test_classes_that_never_came_are_never_answered(classifier):
    vectors, _ = clouds()
    classifier.add(vectors, torch.full((len(vectors),), 1))
    assert set(classifier.scores(10 * vectors).argmax(1).tolist()) == {1}


@pytest.mark.parametrize(
    "vectors, labels, message",
    [
        (torch.rand(2, 4), torch.tensor([0, 1]), r"takes vectors \(B, 5\)"),
        (torch.rand(2, 5), torch.tensor([0, 3]), "from 0 to 2; got 0 to 3"),
        (torch.rand(2, 5), torch.tensor([-1, 0]), "got -1 to 0"),
        (torch.full((2, 5), torch.nan), torch.tensor([0, 1]), "not finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_and_nothing_is_counted(vectors, labels, message):
    classifier = StreamingLDA(3, 5)
    with pytest.raises(InputError, match=message):
        classifier.add(vectors, labels)
    assert not classifier.counts.any() and not classifier.scatter.any()


def test_a_shrinkage_of_nothing_is_refused():
    with pytest.raises(InputError, match="above 0 and at most 1; got 0"):
        StreamingLDA(3, 5, shrinkage=0)


# -- what arrives ------------------------------------------------------------------------------------------------------


def all_streams(seed=0):
    return {
        "classes": class_incremental(LABELS, *HALVES, seed=seed),
        "people": person_incremental(PEOPLE, range(120, 240), known=range(120), count=5, fewest=6, seed=seed),
        "shift": label_shift(LABELS, *HALVES, phases=4, per_phase=25, seed=seed),
    }


@pytest.mark.parametrize("kind", ["classes", "people", "shift"])
def test_nothing_that_tests_ever_arrives_and_the_seed_decides(kind):
    stream = all_streams()[kind]
    tested = {row for part in stream.experiences for row in part.test} | set(stream.others)
    assert not tested & {*stream.rows, *stream.known}
    assert all_streams()[kind] == stream != all_streams(seed=1)[kind]


def test_each_class_arrives_in_one_experience_and_counts_alike_in_its_test():
    tested = [*range(120, 180), *(row for row in range(180, 240) if LABELS[row] != 0)]  # class 0 is rarer
    stream = class_incremental(LABELS, range(120), tested, most=12, seed=3)
    groups = [set(LABELS[list(part.rows)].tolist()) for part in stream.experiences]
    assert [len(group) for group in groups] == [2, 2, 2] and set().union(*groups) == set(range(6))
    for part, group in zip(stream.experiences, groups, strict=True):
        assert set(LABELS[list(part.test)].tolist()) == group and len(part.rows) == 24
        answers = LABELS[list(part.test)] == min(group)  # only one of both classes is right
        assert part.score(answers) == pytest.approx(0.5)


def test_each_person_arrives_once_and_others_are_nobody_who_was_met():
    stream = all_streams()["people"]
    met = [set(PEOPLE[list(part.rows + part.test)].tolist()) for part in stream.experiences]
    assert all(len(people) == 1 for people in met) and len(set.union(*met)) == 5
    assert not set.union(*met) & set(PEOPLE[list(stream.others)].tolist())
    assert [(len(part.rows), len(part.test)) for part in stream.experiences] == [(5, 5)] * 5
    assert len(stream.others) == 70


def test_what_was_frequent_becomes_rare():
    stream = label_shift(LABELS, *HALVES, phases=3, per_phase=63, steepness=0.5)
    first, middle, last = (Counter(LABELS[list(part.rows)].tolist()) for part in stream.experiences)
    order = [one for one, _ in first.most_common()]
    assert [first[one] for one in order] == [32, 16, 8, 4, 2, 1]
    assert [last[one] for one in order] == [1, 2, 4, 8, 16, 32]
    assert middle.total() == 63 and abs(middle[order[0]] - 16.5) < 1
    always_first = LABELS[list(stream.experiences[0].test)] == order[0]
    assert stream.experiences[0].score(always_first) == pytest.approx(32 / 63)
    assert stream.experiences[2].score(always_first) == pytest.approx(1 / 63)


def test_streams_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="make no stream"):
        class_incremental(LABELS, *HALVES, at_once=6)
    with pytest.raises(DataError, match="Class 5 has 0 samples to learn from"):
        class_incremental(LABELS, [row for row in HALVES[0] if LABELS[row] != 5], HALVES[1])
    with pytest.raises(DataError, match="Class 5 has 20 samples to learn from and 0 to test on"):
        label_shift(LABELS, HALVES[0], [row for row in HALVES[1] if LABELS[row] != 5])
    with pytest.raises(DataError, match="12 people have 6 samples or more; `count` is 13"):
        person_incremental(PEOPLE, HALVES[1], count=13, fewest=6)
    with pytest.raises(DataError, match="known before, person 12 for one"):
        person_incremental(PEOPLE, HALVES[1], known=range(125), count=3, fewest=6)


# -- who learns, and what is measured ----------------------------------------------------------------------------------


def stored(count=24, labels=3):
    model = wrap(num_labels=labels)
    faces = [{"pixel_values": face, "labels": n % labels} for n, face in enumerate(pixels(count, 0))]
    return model, cache_features(model, faces)


class Parrot(Learner):
    """Answers with the class that came last; before the stream with class 0."""

    def __init__(self, model):
        super().__init__(model, "default")
        self.calls, self.last = [], 0

    def begin(self, features, labels):
        self.calls.append(("begin", labels.tolist()))

    def observe(self, features, labels):
        assert all(len(tensor) == len(labels) for tensor in features)
        self.calls.append(("observe", labels.tolist()))
        self.last = int(labels[-1])

    def finish(self, features, labels):
        self.calls.append(("finish", labels.tolist()))

    def predict(self, features):
        return torch.full((len(features[0]),), self.last)


def test_everything_is_tested_after_each_experience():
    model, features = stored()  # the label of sample n is n % 3
    parts = (
        Experience("ones", rows=(1, 4, 7), test=(10, 12)),  # labels 1 and 0
        Experience("twos", rows=(2, 5), test=(8, 11, 14, 16), weights=(0.1, 0.2, 0.3, 0.4)),  # labels 2, 2, 2, 1
    )
    learner = Parrot(model)
    scores = run_stream(learner, Stream("two", parts, known=(0, 3), others=(9, 18, 20)), features, batch_size=2)
    assert learner.calls == [
        ("begin", [0, 0]),
        ("observe", [1, 1]),
        ("observe", [1]),
        ("finish", [1, 1, 1]),
        ("observe", [2, 2]),
        ("finish", [2, 2]),
    ]
    assert scores.before == [0.5, 0.0]
    assert scores.accuracies == [[0.5, pytest.approx(0.4)], [0.0, pytest.approx(0.6)]]
    assert scores.others == [pytest.approx(2 / 3), 0.0, pytest.approx(1 / 3)]
    assert len(scores.seconds) == 3
    assert scores.measures() == {
        "average_accuracy": pytest.approx(0.3),
        "forgetting": pytest.approx(0.5),
        "backward_transfer": pytest.approx(-0.5),
        "forward_transfer": pytest.approx(0.4),
        "others": pytest.approx(1 / 3),
        "both": pytest.approx((0.3 + 1 / 3) / 2),
    }


def test_a_learner_of_means_reads_the_map_without_the_mask():
    model, features = stored()
    before = frozen_vectors(model, features.features(range(4)), grid=2)
    with torch.no_grad():
        for parameter in model.adapters["default"].parameters():
            parameter.add_(1.0)
    assert torch.equal(before, frozen_vectors(model, features.features(range(4)), grid=2))
    assert model.active_adapter == "default"
    assert torch.allclose(before.norm(dim=1), torch.ones(4))
    learner = CountingLearner(model, NearestMean(3, before.shape[1]), grid=2)
    learner.observe(features.features(range(3)), torch.arange(3))
    assert learner.predict(features.features(range(3))).tolist() == [0, 1, 2]
    assert learner.memory_bytes == 4 * 3 * before.shape[1] + 3 * 8


def test_joint_training_learns_what_was_known_and_what_arrives_and_nothing_that_tests():
    model, features = stored()
    seen = []
    labels = features.labels
    select = features.select

    def noted(rows):
        seen.extend(rows)
        return select(rows)

    features.select = noted
    parts = (Experience("a", (1, 4), (10,)), Experience("b", (2, 5), (8,)))
    args = CIAOTrainingArguments(max_steps=2, disable_tqdm=True, report_to="none")
    scores = jointly(model, "default", Stream("two", parts, known=(0, 3), others=(9, 12)), features, args)
    assert sorted(seen) == [0, 1, 2, 3, 4, 5] and labels is features.labels
    assert len(scores.accuracies) == len(scores.others) == 1
    assert set(scores.measures()) == {"average_accuracy", "others", "both"}


def test_a_stream_needs_one_class_for_each_sample():
    model, features = stored()
    with pytest.raises(DataError, match="one class for each sample"):
        run_stream(Parrot(model), Stream("none", ()), features.with_labels(None))
