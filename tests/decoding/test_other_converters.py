"""translate-text with models that CTranslate2 converts from transformers: OPUS-MT and M2M-100.

The models are tiny and random; their own program, in float32 and greedy, gives the expected text.
"""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("ctranslate2") is None or find_spec("transformers") is None:
    pytest.skip("needs CTranslate2 and transformers below 5", allow_module_level=True)

import sentencepiece
import torch
from ctranslate2.converters import TransformersConverter

from fairseq_kd import cli

try:
    from transformers import (
        M2M100Config,
        M2M100ForConditionalGeneration,
        M2M100Tokenizer,
        MarianConfig,
        MarianMTModel,
        MarianTokenizer,
    )
except (ImportError, OSError) as error:  # the second of a torchaudio of another torch
    pytest.skip(f"transformers cannot be imported: {error}", allow_module_level=True)

SIZES = {"d_model": 32, "max_position_embeddings": 128, "init_std": 0.4}
SIZES |= {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
SIZES |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}
LENGTH = 30  # tokens of a translation


def pieces_of(text, name, size):
    """A SentencePiece model of text files, and its pieces without the special ones."""
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, text)), model_prefix=str(name), vocab_size=size, minloglevel=2
    )
    path = Path(f"{name}.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return path, [model.id_to_piece(i) for i in range(3, model.get_piece_size())]


def write_vocabulary(folder, tokens):
    tokens = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")


def opus(folder, source, target):
    """A model as those of OPUS-MT: a SentencePiece model for each side, no language tokens."""
    sides = [pieces_of([text], folder / text.suffix[1:], 300) for text in (source, target)]
    for (path, _), name in zip(sides, ("source.spm", "target.spm"), strict=True):
        path.replace(folder / name)
    write_vocabulary(folder, ["</s>", "<unk>", *sides[0][1], *sides[1][1], "<pad>"])
    settings = {"source_lang": "es", "target_lang": "en", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = MarianTokenizer.from_pretrained(folder)
    pad = len(tokenizer) - 1
    ids = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": 0}
    ids["forced_eos_token_id"] = None
    model = MarianMTModel(MarianConfig(vocab_size=len(tokenizer), **ids, **SIZES))
    return model, tokenizer, [], {}


def m2m(folder, source, target):
    """A model as M2M-100: language tokens before the source and the target."""
    path, pieces = pieces_of([source, target], folder / "joint", 400)
    path.replace(folder / "sentencepiece.bpe.model")
    write_vocabulary(folder, ["<s>", "<pad>", "</s>", "<unk>", *pieces])
    files = folder / "vocab.json", folder / "sentencepiece.bpe.model"
    tokenizer = M2M100Tokenizer(*map(str, files), src_lang="es", tgt_lang="en")
    codes = [*tokenizer.lang_code_to_token.values()]
    tokenizer.add_special_tokens({"additional_special_tokens": codes})
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = M2M100Config(vocab_size=4 + len(pieces) + len(codes) + 8, **ids, **SIZES)
    flags = ["--source-prefix", "__es__", "--target-prefix", "__en__"]
    start = {"forced_bos_token_id": tokenizer.get_lang_id("en")}
    return M2M100ForConditionalGeneration(config), tokenizer, flags, start


@pytest.mark.parametrize("build", [opus, m2m])
def test_text_is_translated_as_by_the_models_own_program(build, data, tmp_path):
    text = Path(data).parent / "text"
    folder, ours = tmp_path / "theirs", tmp_path / "ours"
    folder.mkdir()
    torch.manual_seed(1)
    model, tokenizer, flags, start = build(folder, text / "train.es", text / "train.en")
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    TransformersConverter(str(folder)).convert(str(ours))
    for path in [*folder.glob("*.spm"), *folder.glob("*.bpe.model")]:
        shutil.copyfile(path, ours / path.name)
    lines = (text / "test.es").read_text(encoding="utf-8").splitlines()[:8]
    (tmp_path / "text.es").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = ["translate-text", "--ct2-model", ours, "--text", tmp_path / "text.es", *flags]
    words += ["--beam", "1", "--nbest", "1", "--compute-type", "float32", "--workers", "1"]
    assert cli.main([str(word) for word in (*words, "--out", tmp_path / "out")]) == 0
    made = (tmp_path / "out" / "translations.jsonl").read_text(encoding="utf-8").splitlines()
    compared = 0
    for line, found in zip(lines, map(json.loads, made), strict=True):
        given = tokenizer(line, return_tensors="pt")
        with torch.no_grad():
            best = model.generate(**given, num_beams=1, max_new_tokens=LENGTH, **start)[0]
        expected = tokenizer.decode(best, skip_special_tokens=True)
        got = re.sub("__[a-z]+__ ?", "", found["translations"][0]["translation"])
        common = min(len(expected), len(got), 40)
        assert got[:common] == expected[:common]
        compared += common
    assert compared > 150
