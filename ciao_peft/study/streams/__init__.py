"""Learning from a stream: what arrives in which order, who learns from it, and what is measured."""

from __future__ import annotations

from .gradient import ElasticWeights, GradientSettings, LearningWithoutForgetting, Naive, Rehearsal
from .learner import CountingLearner, Learner, Untouched, frozen_vectors
from .means import NearestMean, StreamingLDA
from .online import Online
from .run import StreamScores, jointly, run_stream
from .stream import Experience, Stream, class_incremental, label_shift, person_incremental

__all__ = [
    "CountingLearner",
    "ElasticWeights",
    "Experience",
    "GradientSettings",
    "Learner",
    "LearningWithoutForgetting",
    "Naive",
    "NearestMean",
    "Online",
    "Rehearsal",
    "Stream",
    "StreamScores",
    "StreamingLDA",
    "Untouched",
    "class_incremental",
    "frozen_vectors",
    "jointly",
    "label_shift",
    "person_incremental",
    "run_stream",
]
