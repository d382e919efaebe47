"""Data sets: those of scikit-learn, and pictures of cats and other things from a path that the user gives."""

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import fetch_california_housing, load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split

from experiments.experiment import DataError

LARGEST_FILE = 1 << 30
PICTURE_SIDE = 64
PICTURE_ENDINGS = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
PICTURE_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # whatever the ending says; others may start other programs


class Split(NamedTuple):
    """A training set and a test set."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def _split(x: np.ndarray, y: np.ndarray, share: float | int, seed: int) -> Split:
    parts: Any = train_test_split(x, y, test_size=share, stratify=y, random_state=seed)
    x, x_test, y, y_test = parts
    return Split(x, y, x_test, y_test)


def breast_cancer(seed: int) -> Split:
    """569 tumours, 30 features of very different ranges; 1 is benign. 30% of them to test on."""
    x, y = load_breast_cancer(return_X_y=True)
    return _split(x, y, 0.3, seed)


def digits(seed: int) -> Split:
    """1797 handwritten digits of 8×8 grey levels from 0 to 1. 20% of them to test on."""
    bunch: Any = load_digits()
    return _split(bunch.images / 16, bunch.target, 0.2, seed)


def california_housing() -> tuple[np.ndarray, np.ndarray]:
    """20640 districts, 8 features, and the median house value, 0.15 to 5 hundred thousand dollars.

    scikit-learn downloads it once and keeps it.

    Raises:
        DataError: if it is not kept and cannot be downloaded.
    """
    try:
        x, y = fetch_california_housing(return_X_y=True, n_retries=0)
    except OSError as error:
        raise DataError(f"California housing is not on this machine and could not be downloaded: {error}") from error
    return np.asarray(x), np.asarray(y)


def pictures(path: Path, test_path: Path | None, seed: int) -> Split:
    """Colour pictures (m, height, width, 3) from 0 to 1, labelled 1 for a cat, from an h5 file or a folder.

    The test set is `test_path`, or for `.../train_NAME.h5` the file `test_NAME.h5` beside it, or a fifth of the
    pictures.

    Raises:
        DataError: if a path does not exist or does not hold labelled pictures.
    """
    x, y = _pictures(path)
    beside = path.with_name("test_" + path.name.removeprefix("train_"))
    if test_path is None and path.name.startswith("train_") and beside.exists():
        test_path = beside
    if test_path is None:
        if min(np.bincount(y, minlength=2)) < 2:
            raise DataError(f"{path}: needs at least two pictures of either kind to test on some of them")
        return _split(x, y, max(2, round(0.2 * len(x))), seed)
    x_test, y_test = _pictures(test_path)
    if x_test.shape[1:] != x.shape[1:]:
        raise DataError(f"{test_path}: pictures of shape {x_test.shape[1:]}, but those in {path} have {x.shape[1:]}")
    return Split(x, y, x_test, y_test)


def _pictures(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _h5(path)
    raise DataError(f"{path}: no such file or folder")


def _h5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The datasets `*_x`, uint8 (m, height, width, 3), and `*_y`, (m,) of 0 and 1."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            x, y = (_dataset(path, file, end) for end in ("_x", "_y"))
            if x is None or y is None:
                raise DataError(f"{path}: needs datasets named *_x and *_y, has {', '.join(file) or 'nothing'}")
            if x.ndim != 4 or x.shape[-1] != 3 or x.dtype != np.uint8 or x.size == 0:
                raise DataError(f"{path}: {x.name} must be uint8 (m, height, width, 3), got {x.dtype} {x.shape}")
            if y.shape != (len(x),) or y.dtype.kind not in "iu":
                raise DataError(
                    f"{path}: {y.name} must be one integer for each of {len(x)} pictures, got {y.dtype} {y.shape}"
                )
            pixels, labels = x[:], y[:]
    except DataError:
        raise
    except Exception as error:  # a file made to mislead the parser may make it fail in any way
        raise DataError(f"{path}: not a readable HDF5 file ({error})") from error
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"{path}: labels must be 0 or 1, got {np.unique(labels)[:5].tolist()}")
    return _unit_range(pixels), labels.astype(np.int64)


def _dataset(path: Path, file: Any, end: str) -> Any:
    """The dataset whose name ends so, or None; it lies in this file alone and is of bounded size."""
    import h5py

    names = [name for name in file if name.endswith(end)]
    # Whether it leads to another file is asked before it is opened.
    for name in names:
        if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
            raise DataError(f"{path}: {name} leads to another file")
    dataset = next((file[name] for name in names if isinstance(file.get(name), h5py.Dataset)), None)
    if dataset is None:
        return None
    if dataset.is_virtual or dataset.external:
        raise DataError(f"{path}: {dataset.name} leads to another file")
    read_at_once = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if (size := max(dataset.nbytes, read_at_once)) > LARGEST_FILE:
        raise DataError(f"{path}: {dataset.name} holds {size} bytes, more than {LARGEST_FILE}")
    return dataset


def _folder(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`cat/` and `non_cat/` with pictures of any size, brought to 64×64."""
    pixels, labels = [], []
    most = LARGEST_FILE // (3 * PICTURE_SIDE**2)
    for label, kind in enumerate(("non_cat", "cat")):
        files = sorted(file for file in (path / kind).glob("*") if file.suffix.lower() in PICTURE_ENDINGS)
        if not files:
            raise DataError(f"{path}: needs folders cat/ and non_cat/ with pictures, found none in {kind}/")
        if len(pixels) + len(files) > most:
            raise DataError(f"{path}: holds more than {most} pictures")
        pixels += [_picture(file) for file in files]
        labels += [label] * len(files)
    return _unit_range(np.stack(pixels)), np.array(labels)


def _picture(file: Path) -> np.ndarray:
    """uint8 (64, 64, 3); pictures of so many pixels that Pillow warns of a bomb are refused."""
    from PIL import Image

    if not file.is_file():
        raise DataError(f"{file}: not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=PICTURE_FORMATS) as image:
                if image.mode[0] in "IF":
                    raise DataError(f"{file}: needs 8 bits a channel, has mode {image.mode}")
                small = image.convert("RGB").resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    except DataError:
        raise
    except Exception as error:  # a file made to mislead the parser may make it fail in any way
        raise DataError(f"{file}: not a readable picture ({error})") from error
    return np.asarray(small)


def _unit_range(pixels: np.ndarray) -> np.ndarray:
    """Grey levels 0 to 255 as float32 from 0 to 1."""
    return pixels / np.float32(255)
