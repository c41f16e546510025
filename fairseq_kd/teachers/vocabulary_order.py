"""The order of a multilingual model's vocabulary in which a student's comes first.

The dictionaries of a multilingual model may have language tokens among the words, and those of a
student's data lack them. Where nothing else differs, rows of the model's embeddings are reordered:
ids of the student's dictionary are ids of the model then, and language tokens are behind them.
"""

import re
from pathlib import Path
from typing import Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_kd.dictionaries import read_dictionary
from fairseq_kd.teachers.languages import Languages

UNUSED = re.compile(r"madeupword\w*")  # entries that only fill a vocabulary up
ROWS = {  # the sides of the weights that have a row for each token
    "encoder.embed_tokens.weight": 0,
    "decoder.embed_tokens.weight": 1,
    "decoder.output_projection.weight": 1,
    "decoder.embed_out": 1,  # its name before fairseq 0.9
}


class VocabularyOrder(NamedTuple):
    """A new order of the source and the target vocabulary of a model.

    Args:
        plain: the dictionaries of the student.
        whole: those of the model in this order: the student's tokens, then language tokens.
        ids: for each id of ``whole``, the id in the model's own dictionary.
    """

    plain: Tuple[Dictionary, Dictionary]
    whole: Tuple[Dictionary, Dictionary]
    ids: Tuple[List[int], List[int]]

    def apply(self, weights: Dict[str, Tensor]) -> None:
        """Reorders the rows of a model's weights by copies, where their order differs."""
        for name, side in ROWS.items():
            ids = self.ids[side]
            if len(weights.get(name, ())) == len(ids) and ids != sorted(ids):
                weights[name] = weights[name][torch.tensor(ids)]


def students_order(
    languages: Languages, own: Sequence[Dictionary], language_tokens: Collection[str]
) -> Optional[VocabularyOrder]:
    """The order in which a student's vocabulary comes first.

    Args:
        languages: the student's pair, and the folder with its dictionaries.
        own: the model's, language tokens included.
        language_tokens: which the student's may lack.

    Returns:
        None if a dictionary is missing, if the student has a token that the model does not, if it
        lacks one that is no language token, or if the model has one dictionary for both sides and
        the student does not.
    """
    if languages.folder is None or languages.data is None or not language_tokens:
        return None
    files = [Path(languages.folder, f"dict.{language}.txt") for language in languages.data]
    if not all(file.is_file() for file in files):
        return None
    plain, whole = ([read_dictionary(file, distinct=False) for file in files] for _ in range(2))
    ids = []
    for student, longer, model in zip(plain, whole, own, strict=True):
        missing = [token for token in model.symbols if token not in student.indices]
        if not all(token in language_tokens or UNUSED.fullmatch(token) for token in missing):
            return None
        for token in missing:
            longer.add_symbol(token)
        ids.append([model.indices.get(token, -1) for token in longer.symbols])
        if sorted(ids[-1]) != list(range(len(model))):
            return None
    if own[0] == own[1] and ids[0] != ids[1]:
        return None
    return VocabularyOrder(tuple(plain), tuple(whole), tuple(ids))
