"""Reads decoded and binarised sentences."""

from fairseq.data import Dictionary, data_utils

from fairseq_kd.decoding.hypothesis_files import WHOLE, by_sentence


def content(folder):
    """The bytes of all decoded files in a folder."""
    return (folder / WHOLE).read_bytes()


def hypotheses(folder):
    """The hypotheses in a folder, by sentence."""
    return dict(by_sentence(folder / WHOLE))


def binarised(folder, split, language):
    """The sentences of one side of a split, as lists of ids."""
    words = Dictionary.load(f"{folder}/dict.{language}.txt")
    dataset = data_utils.load_indexed_dataset(f"{folder}/{split}.es-en.{language}", words)
    return [sentence.tolist() for sentence in dataset]
