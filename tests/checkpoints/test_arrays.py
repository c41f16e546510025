"""Arrays in checkpoints: numbers are read, and nothing that leads out of the file."""

import io

import numpy as np
import omegaconf
import pytest
import torch

import fairseq_kd.plugin  # noqa: F401  (names the containers of messages safe, but not in files)
from fairseq_kd.checkpoints.reading import unpickled

BYTES = bytes(bytearray(8))


class Call:
    """Is pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.made_by = function, arguments

    def __reduce__(self):
        return self.made_by


def again(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file)


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(4, dtype=">i4"),
    np.array(3, dtype=np.float16),
    np.array([True, False]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str} {array.shape}")
def test_arrays_of_numbers_are_read_and_written_again_as_they_were(array):
    read = again(again(array))
    assert isinstance(read, np.ndarray)
    assert read.dtype.kind == array.dtype.kind
    assert read.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(read, array)
    assert read.__reduce__()[1][0] is np.ndarray  # what torch reads anywhere
    np.testing.assert_array_equal(again(read + read), array + array)


HOSTILE = {
    "addresses as objects": Call(np.ndarray, (1,), Call(np.dtype, "O"), BYTES),
    "an array of objects": np.array([{}], dtype=object),
    "fields beyond their array": np.zeros(1, dtype=[("a", "i8")]),
    "a container that looks up": Call(list, omegaconf.ListConfig(["${oc.env:HOME}"])),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_makes_more_of_an_array_or_a_container_is_refused(tmp_path, kind):
    path = tmp_path / "T.pt"
    torch.save({"extra_state": HOSTILE[kind]}, path)
    with pytest.raises(ValueError, match=r"^T\.pt (is not a fairseq checkpoint|holds a Python)"):
        unpickled(path, "T.pt")


def test_an_array_takes_nothing_of_what_it_is_called_with():
    assert again(Call(np.ndarray, (4,), None, BYTES)).tolist() == []
