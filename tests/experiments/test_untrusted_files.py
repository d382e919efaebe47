"""Files of strangers: every malformed one is refused in one line, none is unpickled, followed elsewhere or inflated."""

import pickle
import struct
import zlib
from pathlib import Path

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from PIL import Image
from typer.testing import CliRunner

from experiments import data, experiment
from experiments.__main__ import app

PIXELS = np.zeros((6, 4, 4, 3), np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0])


def refusal(path):
    with pytest.raises(experiment.DataError) as error:
        data.pictures(path, None, seed=0)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) <= experiment.LONGEST_MESSAGE + len("...")
    return message


@pytest.fixture
def h5(tmp_path):
    """A good file, of which a test spoils one dataset."""
    path = tmp_path / "pets.h5"
    with h5py.File(path, "w") as file:
        file["a_x"], file["a_y"] = PIXELS, LABELS
    return path


def respoil(path, name, **arguments):
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, **arguments)


@pytest.mark.parametrize("kept", [0, 7, 100, 600, 1500])
def test_truncated_h5_files_are_refused(h5, kept):
    h5.write_bytes(h5.read_bytes()[:kept])
    assert "not a readable HDF5 file" in refusal(h5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("a_x", {"shape": (1 << 20, 1 << 10, 1 << 10, 3), "dtype": "uint8"}, "holds 3298534883328 bytes, more than"),
        ("a_x", {"shape": (6, 1 << 40, 1 << 20, 3), "dtype": "uint8", "chunks": (1, 1, 1, 3)}, "bytes, more than"),
        ("a_x", {"shape": (6, 4, 4, 3), "dtype": h5py.vlen_dtype(np.uint8)}, "must be uint8"),
        ("a_x", {"data": ["pickled"], "dtype": h5py.string_dtype()}, "must be uint8 (m, height, width, 3), got object"),
        ("a_x", {"data": h5py.Empty("uint8")}, "must be uint8"),
        ("a_x", {"shape": (6, 4, 4, 3), "maxshape": (None,) * 4, "chunks": (1000, 1000, 1000, 3), "dtype": "uint8"},
         "holds 3000000000 bytes, more than"),
        ("a_y", {"data": [b"0"] * 6}, "must be one integer for each of 6 pictures"),
        ("a_y", {"data": 1}, "must be one integer for each of 6 pictures, got int64 ()"),
        ("a_y", {"shape": (1 << 40,), "dtype": "int64"}, "bytes, more than"),
        ("a_y", {"data": np.full(6, 1 << 63, np.uint64)}, "labels must be 0 or 1, got [9223372036854775808]"),
    ],
)  # fmt: skip
def test_malformed_datasets_are_refused(h5, name, arguments, message):
    respoil(h5, name, **arguments)
    assert message in refusal(h5)


@pytest.mark.parametrize("kind", ["link", "dangling", "virtual", "external"])
def test_h5_files_that_lead_to_other_files_are_refused(h5, kind, tmp_path):
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["x"] = PIXELS
    with h5py.File(h5, "a") as file:
        del file["a_x"]
        if kind in ("link", "dangling"):
            file["a_x"] = h5py.ExternalLink(str(other) if kind == "link" else "/nowhere.h5", "x")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(PIXELS.shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(other), "x", PIXELS.shape)
            file.create_virtual_dataset("a_x", layout)
        else:
            file.create_dataset("a_x", PIXELS.shape, np.uint8, external=[(str(other), 0, PIXELS.size)])
    assert "a_x leads to another file" in refusal(h5)


def test_soft_links_to_nowhere_are_no_datasets(h5):
    with h5py.File(h5, "a") as file:
        del file["a_x"]
        file["a_x"] = h5py.SoftLink("/nowhere")
    assert "needs datasets named *_x and *_y, has a_x, a_y" in refusal(h5)


def test_names_in_a_file_cannot_break_the_line_or_steer_the_terminal(tmp_path):
    path = tmp_path / "pets.h5"
    with h5py.File(path, "w") as file:
        for i in range(200):
            file[f"\x1b[31mred\nerror: {i}"] = 0
    message = refusal(path)
    assert "\N{REPLACEMENT CHARACTER}[31mred error: 0" in message
    assert message.endswith("...")


@given(st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=20))
def test_h5_files_with_random_bytes_are_read_or_refused(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("h5") / "pets.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a_x", data=PIXELS, chunks=(2, 4, 4, 3), compression="gzip")
        file["a_y"] = LABELS
    spoiled = bytearray(path.read_bytes())
    for place, byte in changes:
        spoiled[place % len(spoiled)] = byte
    path.write_bytes(spoiled)
    try:
        split = data.pictures(path, None, seed=0)
    except experiment.DataError as error:
        assert str(error).isprintable()  # noqa: PT017 (both outcomes are right)
        return
    assert split.x.shape[-1] == 3
    assert set(split.y) <= {0, 1}


class Trap:
    """Whoever unpickles it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", [".h5", ".npz", ".npy", ".pkl", ".csv"])
def test_pickles_are_never_opened(tmp_path, ending):
    sprung, path = tmp_path / "sprung", tmp_path / f"pets{ending}"
    if ending == ".npz":
        np.savez(path, x=np.array([Trap(sprung)], object), y=LABELS)
    elif ending == ".npy":
        np.save(path, np.array([Trap(sprung)], object))
    else:
        path.write_bytes(pickle.dumps(Trap(sprung)))
    assert "not a readable HDF5 file" in refusal(path)
    assert not sprung.exists()
    np.testing.assert_equal(pickle.loads(pickle.dumps(Trap(sprung))), None)
    assert sprung.exists()  # the trap works


@pytest.fixture
def folder(tmp_path):
    """Good pictures, beside which a test puts a bad one."""
    for kind in ("cat", "non_cat"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def png(width, height):
    """A PNG that declares its size and holds next to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("side", [10_000, 20_000, 1 << 30])
def test_pictures_that_would_inflate_to_much_are_refused(folder, side):
    (folder / "cat" / "bomb.png").write_bytes(png(side, side))
    message = refusal(folder)
    assert "bomb.png: not a readable picture" in message
    assert "decompression bomb" in message or "too large" in message.lower()


@pytest.mark.parametrize("kept", [0, 8, 30, 45])
def test_truncated_pictures_are_refused(folder, kept):
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "short.png").write_bytes(whole[:kept])
    assert "short.png: not a readable picture" in refusal(folder)


def test_pictures_of_other_formats_are_refused_whatever_their_ending(folder):
    """PostScript would be handed to another program."""
    Image.new("RGB", (8, 8)).save(folder / "cat" / "program.png", format="EPS")
    assert "program.png: not a readable picture" in refusal(folder)


def test_what_is_no_file_is_refused(folder):
    (folder / "cat" / "folder.png").mkdir()
    assert "folder.png: not a file" in refusal(folder)


def test_more_pictures_than_memory_holds_are_refused(folder, monkeypatch):
    monkeypatch.setattr(data, "LARGEST_FILE", 3 * 64 * 64 * 3)
    assert "holds more than 3 pictures" in refusal(folder)


@given(st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=20))
def test_pictures_with_random_bytes_are_read_or_refused(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("pictures") / "0.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    spoiled = bytearray(path.read_bytes())
    for place, byte in changes:
        spoiled[place % len(spoiled)] = byte
    path.write_bytes(spoiled)
    try:
        picture = data._picture(path)
    except experiment.DataError as error:
        assert str(error).isprintable()  # noqa: PT017 (both outcomes are right)
        return
    assert picture.shape == (64, 64, 3)


def test_the_command_refuses_a_bad_file_in_one_line_with_exit_code_2(h5, tmp_path):
    respoil(h5, "a_x", shape=(1 << 20, 1 << 10, 1 << 10, 3), dtype="uint8")
    arguments = ["run", "image_classifier", "--data", str(h5), "--out", str(tmp_path / "results")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {h5}: /a_x holds 3298534883328 bytes")
