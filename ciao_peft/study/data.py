"""A task's faces and an encoder's features of them: loaded once, stored once, read by every run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import nn

from ..backbone import backbone_signature
from ..data import LabelSet, hold_out, labels_of, load_faces, picture_hashes
from ..encoders import load_encoder, with_preprocessing
from ..errors import ConfigError, DataError, listed
from ..features import Augmentation, FeatureDataset, Samples, cache_features
from ..metrics import main_metric
from ..preprocessing import Preprocessing
from ..saving import move_into_place
from ..trainer import CIAOTrainingArguments, make_apart
from .pixels import PixelSplit
from .plan import Encoder, Task
from .records import key_of
from .stored_depths import StoredDepths, depths_together, reading

if TYPE_CHECKING:
    from datasets import DatasetDict


@dataclass(frozen=True)
class FoldFaces:
    """One training split and the test split that goes with it.

    Args:
        name: Of the fold; empty where there is one alone.
        train: The training split, a `datasets.Dataset`.
        test: The test split; None in a search.

    Example:
        >>> FoldFaces("", train=["a", "b"], test=None).splits
        {'train': ['a', 'b']}
    """

    name: str
    train: Any
    test: Any | None

    @property
    def splits(self) -> dict[str, Any]:
        """Those there are, by name."""
        return {"train": self.train} | ({} if self.test is None else {"test": self.test})


@dataclass(frozen=True)
class LoadedTask:
    """A task with its faces.

    Args:
        task: What was asked for.
        folds: One, or those of its protocol.
        labels: What they are called, and the kind of problem.
        metric: The score that counts.
        fingerprint: Of pictures, labels and groups; no path and no name is in it.
        notes: What was left out, for people.
    """

    task: Task
    folds: tuple[FoldFaces, ...]
    labels: LabelSet
    metric: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def has_folds(self) -> bool:
        """Whether there are several: each is trained by itself, and the answers of all are scored together."""
        return len(self.folds) > 1

    def held_out(
        self, fold: FoldFaces, fraction: float, seed: int, rows: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Row numbers of a fold's training split: those that stay, and those of other people, to choose by.

        Args:
            fold: One of `folds`.
            fraction: Share of the rows that is held out, above 0 and below 1.
            seed: Decides who is held out.
            rows: Those that are shared out; all of them when left out.
        """
        from datasets import Dataset

        group_by = self.task.group_by or self.task.average_by  # the frames of a clip stay together, whoever is in it
        rows = range(len(fold.train)) if rows is None else rows
        columns: dict[str, list[Any]] = {"row": list(rows)}
        if group_by is not None:
            groups = list(fold.train[group_by])
            columns[group_by] = [groups[row] for row in rows]
        rest, held = hold_out(Dataset.from_dict(columns), fraction, group_by, seed)
        return list(rest["row"]), list(held["row"])


def load_task(task: Task) -> LoadedTask:
    """Loads a task's faces; whoever is in the training split is left out of the test split.

    Args:
        task: Names the dataset, its folder, its options, and the column that tells people apart.

    Raises:
        DataNotFoundError: its folder is not there.
        DataError: the dataset or the task's settings cannot be used.
        ConfigError: its options do not fit the dataset, or its metric does not fit the problem.

    Example:
        >>> few = {"num_train": 24, "num_validation": 8, "num_test": 8, "size": 16}
        >>> task = Task(name="painted", dataset="painted_faces", options=few, group_by="identity")
        >>> loaded = load_task(task)
        >>> loaded.metric, loaded.has_folds, [*loaded.folds[0].splits]
        ('accuracy', False, ['train', 'test'])
    """
    folds, notes = [], []
    for name, splits in _folds(task):
        train = splits.get("train")
        test = splits.get("test", splits.get("validation"))
        if train is None or test is None:
            raise DataError(f"The task {task.name!r} needs a train and a test split; it has {', '.join(splits)}.")
        _check_columns(task, test)
        if task.group_by is not None:
            test, note = _without_people_of(train, test, task)
            notes += [note] * (note is not None)
        folds.append(FoldFaces(name, train, test))
    return _loaded(task, folds, notes)


def load_training_split(task: Task) -> LoadedTask:
    """Loads a task's training split alone, for a search that must not look at the test split.

    Args:
        task: As for `load_task`.

    Raises:
        DataNotFoundError, DataError: as for `load_task`.
        ConfigError: as for `load_task`; or the task is tested fold by fold.

    Example:
        >>> few = {"num_train": 24, "num_validation": 8, "num_test": 8, "size": 16}
        >>> task = Task(name="painted", dataset="painted_faces", options=few, group_by="identity")
        >>> [*load_training_split(task).folds[0].splits]
        ['train']
    """
    if task.options.get("fold") == "all":
        raise ConfigError(
            f"The task {task.name!r} is tested on every row, fold by fold, so a search on all of them would see what "
            "is tested. Name one fold in the task's options, such as `fold=0`, and search on the training split of it."
        )
    ((name, splits),) = _folds(task)
    if "train" not in splits:
        raise DataError(f"The task {task.name!r} needs a train split; it has {', '.join(splits)}.")
    _check_columns(task, splits["train"])
    return _loaded(task, [FoldFaces(name, splits["train"], None)])


def _check_columns(task: Task, faces: Any) -> None:
    for column in (task.group_by, task.average_by):
        if column is not None and column not in faces.column_names:
            raise DataError(
                f"The task {task.name!r} names the column {column!r}; there are {listed(faces.column_names)}."
            )


def _loaded(task: Task, folds: Sequence[FoldFaces], notes: Sequence[str] = ()) -> LoadedTask:
    labels = labels_of(folds[0].train)
    metric = metric_of(task, labels)
    digests = set().union(*(_digest(fold, task) for fold in folds))
    fingerprint = key_of({"folds": sorted(digests), "average_by": task.average_by, "names": list(labels.names)})
    return LoadedTask(task, tuple(folds), labels, metric, fingerprint, tuple(notes))


def metric_of(task: Task, labels: LabelSet) -> str:
    """The score that counts for a task.

    Raises:
        ConfigError: there is no such score for its labels, or a lower one would be the better.

    Example:
        >>> metric_of(Task(name="moods", dataset="imagefolder"), LabelSet("single_label_classification", ("a", "b")))
        'accuracy'
    """
    scores = {
        "single_label_classification": ["accuracy", "balanced_accuracy", "macro_f1"],
        "regression": ["concordance", *(f"concordance_{name}" for name in labels.names)],
        "multi_label_classification": ["macro_f1", *(f"f1_{name}" for name in labels.names)],
    }[labels.problem_type]
    if task.metric is not None and task.metric not in scores:
        raise ConfigError(
            f"The task {task.name!r} has the metric {task.metric!r}. For {labels.problem_type} choose one of "
            f"{listed(scores)}."
        )
    return task.metric or main_metric(labels.problem_type)


def _folds(task: Task) -> list[tuple[str, dict[str, Any]]]:
    options = dict(task.options)
    try:
        if options.get("fold") != "all":
            return [("", _by_name(load_faces(task.dataset, task.data_dir, **options)))]
        from ..data import PROTOCOLS, dataset_builder, protocol_folds

        del options["fold"]
        protocol = options.pop("protocol", PROTOCOLS.get(task.dataset, ("official",))[0])
        options = dataset_builder(task.dataset).settings_for(protocol) | options
        faces = load_faces(task.dataset, task.data_dir, protocol=None, **options)
        folds = protocol_folds(task.dataset, cast("DatasetDict", faces), protocol)
        return [(fold.name, _by_name(fold.splits)) for fold in folds]
    except TypeError as error:
        raise ConfigError(f"The options of the task {task.name!r} do not fit {task.dataset}: {error}") from error


def _by_name(splits: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): faces for name, faces in splits.items()}


def _without_people_of(train: Any, test: Any, task: Task) -> tuple[Any, str | None]:
    in_training = {who for who in train[task.group_by] if who is not None}
    groups = list(test[task.group_by])
    keep = [row for row, who in enumerate(groups) if who not in in_training]
    if not keep:
        raise DataError(
            f"Every test row of the task {task.name!r} is of a {task.group_by} that is in training too. If its "
            "protocol means that, set `group_by: null`."
        )
    if len(keep) == len(groups):
        return test, None
    shared = len({who for who in groups if who in in_training})
    left_out = f"{len(groups) - len(keep)} of {len(groups)} test rows left out"
    note = f"{task.name}: {shared} of {task.group_by} are in training too; {left_out}."
    return test.select(keep), note


def _digest(fold: FoldFaces, task: Task) -> set[str]:
    digests = set()
    for split, rows in fold.splits.items():
        digest = hashlib.blake2b(picture_hashes(rows).tobytes(), digest_size=16)
        digest.update(np.asarray(rows["label"], dtype=np.float64).tobytes())
        for column in filter(None, (task.group_by, task.average_by)):
            digest.update("\0".join(map(str, rows[column])).encode())
        digests.add(f"{fold.name}/{split}/{digest.hexdigest()}")
    return digests


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, ready to carry adapters.

    Args:
        asked: What was asked for.
        module: The network.
        revision: Which weights these are.
        signature: A hash of its content and of what it is fed.
    """

    asked: Encoder
    module: nn.Module
    revision: str
    signature: str


def load_study_encoder(encoder: Encoder) -> LoadedEncoder:
    """Loads an encoder and says which weights it has.

    Args:
        encoder: Its source is a name or a folder that `load_encoder` knows.

    Raises:
        EncoderNotFoundError, ConfigError, AdapterFileError: it cannot be loaded.

    Example:
        >>> loaded = load_study_encoder(Encoder(name="small-face"))
        >>> loaded.asked.name, loaded.module.input_size
        ('small-face', (3, 64, 64))
    """
    module = load_encoder(encoder.source or encoder.name)
    preprocessing = Preprocessing.for_backbone(module)
    if encoder.preprocessing:
        preprocessing = (preprocessing or Preprocessing()).replace(**encoder.preprocessing)
        with_preprocessing(module, preprocessing)
    fed = None if preprocessing is None else preprocessing.to_dict()
    size = getattr(module, "input_size", None)
    size = None if size is None else list(size)
    signature = key_of({"weights": backbone_signature(module), "preprocessing": fed, "input_size": size})
    revision = getattr(module, "revision", None)
    if not isinstance(revision, str) or revision in ("", "random"):
        revision = signature
    return LoadedEncoder(encoder, module, revision, signature)


class Material:
    """What the runs of one task with one encoder train from, made when first asked for.

    Processes that want the same wait for the one that makes it.

    Args:
        loaded: The task.
        encoder: The encoder.
        folder: Of the study's stored features.
        feature_dtype: In which they are stored; the encoder's own when left out.
        disable_tqdm: As for `cache_features`.
    """

    loaded: LoadedTask
    encoder: LoadedEncoder
    folder: Path
    feature_dtype: str | None
    disable_tqdm: bool | None

    def __init__(
        self,
        loaded: LoadedTask,
        encoder: LoadedEncoder,
        folder: Path,
        feature_dtype: str | None = None,
        disable_tqdm: bool | None = None,
    ):
        self.loaded, self.encoder = loaded, encoder
        slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{loaded.task.name}-{encoder.asked.name}").strip("-")
        stored = {"task": loaded.fingerprint, "encoder": encoder.signature, "dtype": feature_dtype}
        self.folder = folder / f"{slug}-{key_of(stored)[:8]}"
        self.feature_dtype, self.disable_tqdm = feature_dtype, disable_tqdm
        self._made: dict[tuple[str, str, int, StoredDepths], dict[str, Any]] = {}
        self._depths: dict[str, StoredDepths] = {}

    def depths(self, config: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> StoredDepths:
        """The depths that are stored for a method, those of the others of its plan among them.

        Args:
            config: Settings of the method's adapter.
            others: Those of all methods of the plan.
        """
        asked = [{name: own.get(name) for name in ("depths", "depth_grid") if name in own} for own in (config, *others)]
        key = key_of({"asked": asked})
        if key not in self._depths:
            self._depths[key] = depths_together(self.encoder.module, asked[0], asked[1:])
        return self._depths[key]

    def splits(
        self,
        fold: FoldFaces,
        needs: str,
        views: int = 1,
        augment: Augmentation | None = None,
        depths: StoredDepths = StoredDepths(),  # noqa: B008 - a tuple
    ) -> dict[str, Any]:
        """The splits of a fold by name, as a trainer takes them: stored `"features"`, or `"pixels"`.

        Args:
            fold: Its pictures.
            needs: Which of the two.
            views: Stored views of each picture to learn from; of pixels, the trainer makes them.
            augment: How the views differ.
            depths: Stored with the features, in a folder of their own; where they are not needed and there is a folder
                without, that one is read.
        """
        views, depths = (views, depths) if needs == "features" else (1, StoredDepths())
        key = (fold.name, needs, views, depths)
        if key not in self._made:
            from filelock import FileLock

            place = self.folder / (re.sub(r"[^A-Za-z0-9]+", "-", fold.name) or "official")
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / f"{needs}.lock"):
                stored = needs == "features"
                self._made[key] = (
                    self._features(fold, place, views, augment, depths) if stored else self._pixels(fold, place)
                )
        return self._made[key]

    def _features(
        self, fold: FoldFaces, place: Path, views: int, augment: Augmentation | None, depths: StoredDepths
    ) -> dict[str, FeatureDataset]:
        self.encoder.module.to(make_apart(CIAOTrainingArguments(report_to="none"))[0].device)

        def stored(name: str, faces: Any) -> FeatureDataset:
            several = views > 1 and name == "train"
            folder = place / "features" / (f"{name}-{views}-views" if several else name)
            these = depths if depths.needed or not folder.exists() else StoredDepths()
            with reading(self.encoder.module, these) as model:
                return cache_features(
                    model,
                    faces,
                    folder.with_name(folder.name + these.suffix),
                    views=views if several else 1,
                    augment=augment if several else None,
                    dtype=self.feature_dtype,
                    include_excitation=True,  # u is read by every adapter on the frozen convolution, in every epoch
                    disable_tqdm=self.disable_tqdm,
                )

        return {name: stored(name, faces) for name, faces in fold.splits.items()}

    def _pixels(self, fold: FoldFaces, place: Path) -> dict[str, PixelSplit]:
        return {name: self._stored_pixels(faces, place / f"{name}.npy") for name, faces in fold.splits.items()}

    def _stored_pixels(self, faces: Any, path: Path) -> PixelSplit:
        samples = Samples(faces, Preprocessing.for_backbone(self.encoder.module))
        if not path.exists():
            aside = path.with_suffix(".part.npy")
            shape = (len(samples), *samples.pixels([0]).shape[1:])
            array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float16, shape=shape)
            for start in range(0, len(samples), 256):
                rows = range(start, min(start + 256, len(samples)))
                array[start : rows.stop] = samples.pixels(rows).half().numpy()
            array.flush()
            del array
            move_into_place(aside, path)
        labels = samples.labels()
        if labels is None:
            raise DataError(f"The task {self.loaded.task.name!r} has no labels to learn.")
        return PixelSplit(np.load(path, mmap_mode="r"), labels, label_names=samples.label_names)
