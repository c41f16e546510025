"""Pickles of a checkpoint: allowed calls, and calls that are refused before torch makes them."""

import codecs
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch

from fairseq_kd.checkpoints.reading import is_cut_off, read_checkpoint

WEIGHTS = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "encoder.version": torch.zeros(1)}
ARGS = Namespace(arch="transformer", criterion="cross_entropy", encoder_layers=2)
GIVE = "Give a file that fairseq-train wrote."
AGAIN = "Copy it again, or give another checkpoint of that training."


def saved(path, state, **how):
    torch.save(state, path, **how)
    return path


def refused(path, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {message}')}$"):
        read_checkpoint(path)


class Call:
    """A call in a pickle."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


HUGE = 10**11
QUANTISED = torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)
UNNEEDED = {
    "builtins.bytearray": Call(bytearray, HUGE),
    "torch.Tensor": Call(torch.Tensor, HUGE),
    "torch.FloatTensor": Call(torch.FloatTensor, HUGE),
    "torch.storage.UntypedStorage": Call(torch.UntypedStorage, HUGE),
    "torch._utils._rebuild_qtensor": QUANTISED,
    "torch._tensor._rebuild_from_type_v2": Call(
        torch._tensor._rebuild_from_type_v2, bytearray, torch.Tensor, (HUGE,), {}
    ),
    "_codecs.encode": Call(codecs.encode, "a" * 99, "utf-32"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("called", UNNEEDED)
def test_nothing_is_called_that_no_checkpoint_needs(tmp_path, called, zipped):
    content = {"model": {"w": UNNEEDED[called]}, "args": ARGS}
    path = saved(tmp_path / "T.pt", content, _use_new_zipfile_serialization=zipped)
    message = (
        f"{path} holds a Python object besides weights, {called}, and is not loaded, since load"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_checkpoint(path)
    assert not is_cut_off(path)


LONG, TEXT = list(range(1000)), "a" * 9000
PAIRS = [(number, 2) for number in LONG]
REPEATED = {
    "a set": [Call(set, LONG) for _ in range(200)],
    "a dictionary": [Call(OrderedDict, PAIRS) for _ in range(200)],
    "bytes": [Call(codecs.encode, TEXT, "latin1") for _ in range(200)],
}


@pytest.mark.parametrize("kind", REPEATED)
def test_what_is_made_of_the_same_values_again_and_again_is_refused(tmp_path, kind):
    path = saved(tmp_path / "T.pt", {"model": WEIGHTS, "args": ARGS, "more": REPEATED[kind]})
    message = (
        "is not a fairseq checkpoint: what torch would make of it is far larger than the file."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {message} {GIVE}')}$"):
        read_checkpoint(path)


COUNT = 70_000
CUTS = {
    "a count of 2^31 - 1": lambda whole: whole.replace(
        struct.pack("<i", COUNT), struct.pack("<i", 2**31 - 1)
    ),
    "half of the file": lambda whole: whole[: len(whole) // 2],
    "its head": lambda whole: whole[:300],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_tensors_of_more_numbers_than_the_file_has_are_not_made(tmp_path, cut):
    path = tmp_path / "T.pt"
    content = {"model": {"w": torch.zeros(COUNT)}, "args": ARGS}
    whole = saved(path, content, _use_new_zipfile_serialization=False).read_bytes()
    assert read_checkpoint(path)["model"]["w"].numel() == COUNT
    path.write_bytes(cut(whole))
    message = re.escape(f"{path} is cut off, its end is missing. {AGAIN}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        read_checkpoint(path)
    assert is_cut_off(path)


NUMBERS = torch.arange(4.0)
EXTENTS = {  # offset, shape and strides of a tensor of four numbers
    "too long": (0, (5,), (1,)),
    "too late": (1, (2, 2), (2, 1)),
    "too wide": (0, (2,), (4,)),
    "far too long": (0, (10**9,), (1,)),
}


def rebuilt(offset, shape, strides, kind=torch.float32):
    """The call in a pickle that makes a tensor."""
    if kind is torch.float32:
        storage, version, more = NUMBERS.storage(), torch._utils._rebuild_tensor_v2, ()
    else:
        storage, version, more = NUMBERS.untyped_storage(), torch._utils._rebuild_tensor_v3, (kind,)
    return Call(version, storage, offset, shape, strides, False, OrderedDict(), *more)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [torch.float32, torch.uint32])
@pytest.mark.parametrize("extent", EXTENTS)
def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path, extent, kind, zipped):
    offset, shape, strides = EXTENTS[extent]
    content = {"model": {"w": rebuilt(offset, shape, strides, kind)}, "args": ARGS}
    path = saved(tmp_path / "T.pt", content, _use_new_zipfile_serialization=zipped)
    tensor = (
        f"a tensor in it has the shape {shape} from number {offset} on with the strides {strides}"
    )
    refused(
        path, f"is not a fairseq checkpoint: {tensor}, but the file holds 4 numbers of it. {GIVE}"
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_is_any_part_of_its_numbers(tmp_path, zipped):
    whole = {"part": NUMBERS[1:3], "columns": NUMBERS.reshape(2, 2).t(), "one": NUMBERS[3]}
    whole |= {"none": NUMBERS[4:], "same": NUMBERS}
    whole |= {"few": torch.arange(3).to(torch.uint16)} if zipped else {}
    path = tmp_path / "T.pt"
    saved(path, {"model": WEIGHTS, "args": ARGS, "m": whole}, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)["m"]
    assert all(torch.equal(read[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_the_numbers_of_a_tensor_are_not_changed_afterwards(tmp_path, zipped):
    weight = rebuilt(0, (4,), (1,))
    weight.called = (*weight.called, (NUMBERS.storage(), 0, (10**9,), (1,)))
    content = {"model": {"w": weight}, "args": ARGS}
    path = saved(tmp_path / "T.pt", content, _use_new_zipfile_serialization=zipped)
    refused(path, f"is not a fairseq checkpoint: torch cannot read it. {GIVE}")


def test_numbers_that_torch_would_not_read_are_missed(tmp_path):
    path = tmp_path / "T.pt"
    content = {"model": {"w": NUMBERS}, "args": ARGS}
    whole = saved(path, content, _use_new_zipfile_serialization=False).read_bytes()
    listed = whole.rindex(b"\x80\x02]")
    assert len(pickle.loads(whole[listed:])) == 1
    path.write_bytes(whole[:listed] + pickle.dumps([], 2) + whole[listed:])
    refused(path, f"is not a fairseq checkpoint: torch cannot read it. {GIVE}")


def test_numbers_of_another_record_are_not_taken_for_weights(tmp_path):
    whole = saved(tmp_path / "whole.pt", {"args": ARGS, "model": {"a": torch.zeros(1)}})
    path = tmp_path / "forged.pt"
    with zipfile.ZipFile(whole) as records:
        kept = {each.partition("/")[2]: records.read(each) for each in records.namelist()}
    kept["data.pkl"] = kept["data.pkl"].replace(b"cpuq\x11K\x01", b"cpuq\x11K\x09")
    assert kept["data.pkl"].count(b"cpuq\x11K\x09") == 1
    writer = torch._C.PyTorchFileWriter(str(path))
    for name in ("data.pkl", "byteorder", "data/0"):
        writer.write_record(name, kept[name], len(kept[name]))
    writer.write_record("more", bytes(64), 64)
    writer.write_end_of_file()
    refused(path, f"is not a fairseq checkpoint: torch cannot read it. {GIVE}")
