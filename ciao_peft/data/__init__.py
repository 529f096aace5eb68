"""Datasets of faces. `load_faces` finds each by its name; nothing heavy is imported before that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .aligned import align_folder as align_folder
    from .aligned import located_landmarks as located_landmarks
    from .clip_rows import Clips as Clips
    from .clip_rows import clips as clips
    from .duplicates import drop_duplicate_pictures as drop_duplicate_pictures
    from .duplicates import picture_hashes as picture_hashes
    from .duplicates import shared_between_splits as shared_between_splits
    from .emoreact import clip_means as clip_means
    from .expressions import EXPRESSIONS as EXPRESSIONS
    from .expressions import expression_name as expression_name
    from .expressions import label_mapping as label_mapping
    from .frames import read_frames as read_frames
    from .frames import sample_frames as sample_frames
    from .inspect import Inspection as Inspection
    from .inspect import contact_sheet as contact_sheet
    from .inspect import inspect_faces as inspect_faces
    from .labels import LabelSet as LabelSet
    from .labels import labels_of as labels_of
    from .loading import dataset_builder as dataset_builder
    from .loading import list_faces as list_faces
    from .loading import load_faces as load_faces
    from .localizer import Box as Box
    from .localizer import FaceLocalizer as FaceLocalizer
    from .localizer import crop_faces as crop_faces
    from .localizer import haar_detector as haar_detector
    from .localizer import yunet_detector as yunet_detector
    from .mapping import map_labels as map_labels
    from .painting import paint_face as paint_face
    from .people import Expression as Expression
    from .people import Person as Person
    from .people import View as View
    from .protocols import PROTOCOLS as PROTOCOLS
    from .protocols import Fold as Fold
    from .protocols import protocol_folds as protocol_folds
    from .protocols import stratified_folds as stratified_folds
    from .protocols import subject_folds as subject_folds
    from .shards import Shards as Shards
    from .shards import open_shards as open_shards
    from .splits import hold_out as hold_out
    from .votes import sample_labels as sample_labels
    from .votes import vote_weights as vote_weights

__all__ = [
    "EXPRESSIONS",
    "PROTOCOLS",
    "Box",
    "Clips",
    "Expression",
    "FaceLocalizer",
    "Fold",
    "Inspection",
    "LabelSet",
    "Person",
    "Shards",
    "View",
    "align_folder",
    "clip_means",
    "clips",
    "contact_sheet",
    "crop_faces",
    "dataset_builder",
    "drop_duplicate_pictures",
    "expression_name",
    "haar_detector",
    "hold_out",
    "inspect_faces",
    "label_mapping",
    "labels_of",
    "list_faces",
    "load_faces",
    "located_landmarks",
    "map_labels",
    "open_shards",
    "paint_face",
    "picture_hashes",
    "protocol_folds",
    "read_frames",
    "sample_frames",
    "sample_labels",
    "shared_between_splits",
    "stratified_folds",
    "subject_folds",
    "vote_weights",
    "yunet_detector",
]

_MODULE_OF = {
    "Box": "localizer",
    "Clips": "clip_rows",
    "EXPRESSIONS": "expressions",
    "Expression": "people",
    "FaceLocalizer": "localizer",
    "Fold": "protocols",
    "Inspection": "inspect",
    "LabelSet": "labels",
    "PROTOCOLS": "protocols",
    "Person": "people",
    "Shards": "shards",
    "View": "people",
    "align_folder": "aligned",
    "clip_means": "emoreact",
    "clips": "clip_rows",
    "contact_sheet": "inspect",
    "crop_faces": "localizer",
    "dataset_builder": "loading",
    "drop_duplicate_pictures": "duplicates",
    "expression_name": "expressions",
    "haar_detector": "localizer",
    "hold_out": "splits",
    "inspect_faces": "inspect",
    "label_mapping": "expressions",
    "labels_of": "labels",
    "list_faces": "loading",
    "load_faces": "loading",
    "located_landmarks": "aligned",
    "map_labels": "mapping",
    "open_shards": "shards",
    "paint_face": "painting",
    "picture_hashes": "duplicates",
    "protocol_folds": "protocols",
    "read_frames": "frames",
    "sample_frames": "frames",
    "sample_labels": "votes",
    "shared_between_splits": "duplicates",
    "stratified_folds": "protocols",
    "subject_folds": "protocols",
    "vote_weights": "votes",
    "yunet_detector": "localizer",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
