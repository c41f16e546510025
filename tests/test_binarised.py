"""Files of fairseq-preprocess in other formats than mmap, and alignments, when they are damaged."""

import shutil

import numpy as np
import pytest
import torch
from fairseq.data.huffman import HuffmanMMapIndex
from fairseq.data.indexed_dataset import IndexedDatasetBuilder, MMapIndexedDatasetBuilder
from harness import Setup

from fairseq_kd.binarised import check_side

AGAIN = "Binarise the data again"


@pytest.mark.parametrize("impl", ["cached", "huffman"])
def test_damaged_data_of_other_formats_are_named(impl, tmp_path):
    side = tmp_path / "train.es-en.es"
    index, content = tmp_path / "train.es-en.es.idx", tmp_path / "train.es-en.es.bin"
    if impl == "cached":
        builder = IndexedDatasetBuilder(str(content))
        for length in (3, 5):
            builder.add_item(torch.arange(length))
        builder.finalize(str(index))
    else:
        content.write_bytes(bytes(32))
        with HuffmanMMapIndex.writer(str(index), 32) as file:
            file.write([3, 5], [12, 32])
    assert check_side(side, 9)
    whole = index.read_bytes()
    for size in range(10, len(whole)):
        index.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"^{index} is cut off or damaged\. {AGAIN}"):
            check_side(side, 9)
    index.write_bytes(whole)
    content.write_bytes(bytes(31))
    text = rf"^{content} is cut off or damaged: it has 31 bytes, and {index.name} gives 32\."
    with pytest.raises(ValueError, match=text):
        check_side(side, 9)


def test_tokens_of_another_dictionary_in_cached_data_are_named(tmp_path):
    side, content = tmp_path / "train.es-en.es", tmp_path / "train.es-en.es.bin"
    builder = IndexedDatasetBuilder(str(content))
    builder.add_item(torch.tensor([0, 8, 2]))
    builder.finalize(f"{side}.idx")
    assert check_side(side, 9)
    message = rf"^{content} holds token 8, but its dictionary has the tokens 0 to 7\. Binarise the"
    with pytest.raises(ValueError, match=message):
        check_side(side, 8)


def test_damaged_alignments_are_named_before_a_training(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    path = folder / "train.align.es-en.bin"
    builder = MMapIndexedDatasetBuilder(str(path), dtype=np.int32)
    builder.add_item(torch.tensor([0, 0, 1, 1]))
    builder.add_item(torch.tensor([], dtype=torch.int32))  # a sentence may have none
    builder.finalize(f"{path.with_suffix('')}.idx")
    flags = ["--criterion", "word_kd", "--kd-alpha", "0", "--kd-beta", "1"]
    Setup(str(folder), *flags)
    path.write_bytes(path.read_bytes()[:8])
    message = (
        rf"^{path} is cut off or damaged: it has 8 bytes, and train\.align\.es-en\.idx gives 16\."
    )
    with pytest.raises(ValueError, match=message):
        Setup(str(folder), *flags)


@pytest.mark.parametrize("language", ["es", "en"])
@pytest.mark.parametrize("subset", ["train", "valid"])
def test_a_set_in_one_language_is_named_before_a_training(
    data, teacher, tmp_path, subset, language
):
    folder = shutil.copytree(data, tmp_path / "data")
    for path in folder.glob(f"{subset}.es-en.{language}.*"):
        path.unlink()
    message = (
        rf"^{folder}/{subset}\.es-en\.{language}\.bin is missing\. Binarise both languages again; "
        r"monolingual text of fairseq-kd binarise-text is for fairseq-kd translate, and then "
        r"distill-data makes a training set of it\.$"
    )
    with pytest.raises(ValueError, match=message):
        Setup(str(folder), "--criterion", "word_kd", "--kd-teacher", teacher)
