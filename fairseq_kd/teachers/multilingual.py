"""Multilingual models: their languages, dictionaries, weights and tokens of one language pair.

``load_teacher`` makes a model of one pair of them, which reads the student's vocabulary and has the
tokens of languages behind it.
"""

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.data.multilingual.multilingual_utils import get_lang_tok
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_kd.checkpoints.reading import data_folders, options_of
from fairseq_kd.dictionaries import read_dictionary
from fairseq_kd.parallel_text import lines_of
from fairseq_kd.teachers.languages import Languages, Pair
from fairseq_kd.teachers.sentence_format import PLAIN, SentenceFormat
from fairseq_kd.teachers.vocabulary_order import VocabularyOrder, students_order

BART, MULTI, SEPARATE = (
    "translation_from_pretrained_bart",
    "translation_multi_simple_epoch",
    "multilingual_translation",
)
TASKS = (BART, MULTI, SEPARATE)
SHOWN = 200  # characters of a path in a message
END, BEGIN, MASK = "</s>", "<s>", "<mask>"


class LanguageTokens(NamedTuple):
    """What a task adds to the dictionaries, and puts around a sentence, as symbols."""

    added: List[str]
    source_prefix: Tuple[str, ...]
    source_suffix: Tuple[str, ...]
    target_prefix: Tuple[str, ...]
    end: str = END


class TeacherTask(TranslationTask):
    """A translation task of one pair of a multilingual model, by its own names ``own_languages``.

    Its dictionaries are the student's. ``whole`` are the model's, with tokens of languages, in the
    order of ``order`` if the checkpoint has another.
    """

    def __init__(
        self,
        cfg: TranslationConfig,
        src_dict: Dictionary,
        tgt_dict: Dictionary,
        whole: Optional[Tuple[Dictionary, Dictionary]] = None,
        sentence_format: SentenceFormat = PLAIN,
        order: Optional[VocabularyOrder] = None,
        own_languages: Optional[Pair] = None,
    ):
        super().__init__(cfg, src_dict, tgt_dict)
        self.whole = whole or (src_dict, tgt_dict)
        self.sentence_format, self.order = sentence_format, order
        self.own_languages = own_languages

    def reorder(self, weights: Dict[str, Tensor]) -> None:
        """Puts the vocabulary of a checkpoint's weights in the order of ``whole``."""
        if self.order is not None:
            self.order.apply(weights)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Builds the model over its own dictionaries."""
        task = TranslationTask(self.cfg, *self.whole)
        return task.build_model(cfg, from_checkpoint)

    def build_generator(self, models: Any, args: Any, **others: Any) -> Any:
        """The generator of fairseq, which ends a translation as the model's own task does."""
        whole = TranslationTask(self.cfg, *self.whole)
        generator = whole.build_generator(models, args, **others)
        if isinstance(generator, SequenceGenerator):
            generator.eos = self.sentence_format.end
        return generator

    def inference_step(
        self,
        generator: Any,
        models: Any,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
    ) -> List[List[Dict[str, Tensor]]]:
        """Translations without the tokens of languages; see ``FairseqTask.inference_step``."""
        tokens_around, net_input = self.sentence_format, sample["net_input"]
        source = tokens_around.source(net_input["src_tokens"])
        lengths = net_input["src_lengths"] + tokens_around.more_source
        sample = {**sample, "net_input": {"src_tokens": source, "src_lengths": lengths}}
        start, *forced = tokens_around.target_prefix
        if forced:
            prefix_tokens = source.new_tensor([forced]).expand(len(source), -1)
        results = generator.generate(
            models, sample, prefix_tokens=prefix_tokens, constraints=constraints, bos_token=start
        )
        return [[self._stripped(each) for each in nbest] for nbest in results]

    def _stripped(self, hypothesis: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """A hypothesis without the tokens of its target language, to its first end of sentence."""
        tokens, eos = hypothesis["tokens"], self.target_dictionary.eos()
        ends = tokens.eq(eos).nonzero().flatten().tolist()
        kept = torch.ones_like(tokens, dtype=torch.bool)
        kept[ends[0] + 1 if ends else len(tokens) :] = False
        for token in {*self.sentence_format.target_prefix, self.sentence_format.end} - {eos}:
            kept &= tokens.ne(token)
        changed = {name: hypothesis[name][kept] for name in ("tokens", "positional_scores")}
        if not ends:  # the model's own end was another token
            changed["tokens"] = torch.cat([changed["tokens"], tokens.new_tensor([eos])])
        return {**hypothesis, **changed}


def teacher_task(
    path: str, name: str, state: Dict[str, Any], languages: Languages, folder: str
) -> TeacherTask:
    """The task of a multilingual checkpoint for one language pair.

    Args:
        path: the checkpoint.
        name: how errors name it.
        state: as ``read_translation_model`` gives it, with the pair in the task's configuration.
        languages: the pair.
        folder: with its dictionaries.

    Raises:
        ValueError: the model has no tokens of these languages, or its options are of no known kind.
    """
    options = options_of(state, "task")
    pair = (state["cfg"].task.source_lang, state["cfg"].task.target_lang)
    files = [
        named or Path(folder, f"dict.{language}.txt")
        for named, language in zip(named_dictionaries(path, options), pair, strict=True)
    ]
    plain, whole = ([read_dictionary(file, distinct=False) for file in files] for _ in range(2))
    tokens = language_tokens(path, name, options, pair)
    for dictionary in whole:
        for symbol in tokens.added:
            dictionary.add_symbol(symbol)
    order = students_order(languages, whole, tokens.added)
    if order is not None:
        plain, whole = order.plain, order.whole
    source, target = ((_Ids(name, each, pair)) for each in whole)
    around = SentenceFormat(
        source.of(tokens.source_prefix),
        source.of(tokens.source_suffix),
        target.of(tokens.target_prefix),
        target.of((tokens.end,))[0],
        whole[0].pad(),
        tuple(tuple(w.symbols[len(p) :]) for w, p in zip(whole, plain, strict=True)),
    )
    cfg = TranslationConfig(data=folder, dataset_impl=None, train_subset="train")
    cfg.source_lang, cfg.target_lang = languages.data or pair
    cfg.required_seq_len_multiple = 1
    for side in ("source", "target"):
        limit = options.get(f"max_{side}_positions")
        if isinstance(limit, int):
            setattr(cfg, f"max_{side}_positions", limit)
    return TeacherTask(OmegaConf.structured(cfg), *plain, tuple(whole), around, order, pair)


def languages_of(task: FairseqTask) -> List[str]:
    """The languages that a model translates, by its own names; none of a bilingual model."""
    return list(getattr(task, "own_languages", None) or ())


class _Ids:
    """The ids of tokens of languages in a dictionary."""

    def __init__(self, name: str, dictionary: Dictionary, pair: Pair):
        self.name, self.dictionary, self.pair = name, dictionary, pair

    def of(self, symbols: Sequence[str]) -> Tuple[int, ...]:
        """The ids of symbols."""
        ids = tuple(self.dictionary.index(symbol) for symbol in symbols)
        if self.dictionary.unk() in ids:
            missing = symbols[ids.index(self.dictionary.unk())]
            raise ValueError(
                f"{self.name} has no token {missing} for {'-'.join(self.pair)} in its dictionary. "
                "Give the languages by the names that it was trained with."
            )
        return ids


def known_languages(path: str, name: str, options: Mapping) -> List[str]:
    """The languages of a multilingual model, in the order of their tokens.

    Raises:
        ValueError: its options do not name them.
    """
    task = options["_name"]
    given, listed = options.get("langs"), options.get("lang_dict")
    pairs = _split(options.get("lang_pairs"))
    if task == MULTI and listed:
        file = _file(path, str(listed))
        languages = [line.strip() for line in lines_of(str(file))]
        languages = [language for language in languages if language]
    elif task != SEPARATE and given:
        languages = _split(given)
    else:
        languages = sorted({each for pair in pairs for each in pair.split("-")})
    if not languages:
        raise ValueError(
            f"{name} was trained on --task {task}, but its options name no languages. Give a file "
            "that fairseq-train wrote."
        )
    return languages


def recorded_pairs(path: str, name: str, options: Mapping) -> List[Pair]:
    """The language pairs that a multilingual model translates, as its options name them."""
    pairs = [tuple(pair.split("-")) for pair in _split(options.get("lang_pairs"))]
    one = (options.get("source_lang"), options.get("target_lang"))
    return [one] if None not in one else [pair for pair in pairs if len(pair) == 2]


def check_languages(path: str, name: str, options: Mapping, pair: Pair) -> List[str]:
    """The languages of a multilingual model, which must have those of a pair.

    Args:
        path: the checkpoint.
        name: how errors name it.
        options: of its task.
        pair: source and target language, by its names.

    Raises:
        ValueError: it does not know one of them.
    """
    languages = known_languages(path, name, options)
    unknown = [language for language in pair if language not in languages]
    if unknown:
        shown = ", ".join(languages[:20]) + (", ..." if len(languages) > 20 else "")
        raise ValueError(
            f"{name} does not know the language {unknown[0]}. Give one of its own names: {shown}."
        )
    return languages


def language_tokens(path: str, name: str, options: Mapping, pair: Pair) -> LanguageTokens:
    """The tokens that the task of a model uses for a language pair; see ``check_languages``.

    Raises:
        ValueError: as ``check_languages``, or its task is used in a way that is not known.
    """
    languages = check_languages(path, name, options, pair)
    return _TOKENS[options["_name"]](name, options, pair, languages)


def _bart(name: str, options: Mapping, pair: Pair, languages: List[str]) -> LanguageTokens:
    source, target = (f"[{language}]" for language in pair)
    begin = (BEGIN,) if options.get("prepend_bos") else ()
    added = [*(f"[{language}]" for language in languages), MASK]
    return LanguageTokens(added, begin, (END, source), (target, *begin), target)


def _multi(name: str, options: Mapping, pair: Pair, languages: List[str]) -> LanguageTokens:
    for option in ("enable_lang_ids", "add_data_source_prefix_tags"):
        if options.get(option):
            raise ValueError(
                f"{name} was trained with --{option.replace('_', '-')}, which gives a model more "
                "than sentences and tokens of languages. Import its translations by fairseq-kd "
                "import-translations."
            )
    style = options.get("lang_tok_style") or "multilingual"
    specs = _split(options.get("langtoks_specs")) or ["main"]
    main = (options.get("langtoks") or {}).get("main")
    if main is None:
        main = (options.get("encoder_langtok"), "tgt" if options.get("decoder_langtok") else None)
    added = [get_lang_tok(each, style, spec) for spec in specs for each in languages]
    if style == "mbart" or "mono_dae" in (options.get("extra_data") or ()):
        added.append(MASK)
    sources = tuple(
        get_lang_tok(pair[0] if spec.startswith("src") else pair[1], style, spec)
        for spec in main[:1]
        if spec
    )
    targets = tuple(get_lang_tok(pair[1], style, spec) for spec in main[1:] if spec)
    if options.get("lang_tok_replacing_bos_eos"):
        return LanguageTokens(added, (), sources or (END,), targets or (END,))
    return LanguageTokens(added, sources, (END,), (END, *targets))


def _separate(name: str, options: Mapping, pair: Pair, languages: List[str]) -> LanguageTokens:
    source, target = (f"__{language}__" for language in pair)
    encoder, decoder = options.get("encoder_langtok"), options.get("decoder_langtok")
    added = [f"__{language}__" for language in languages] if encoder or decoder else []
    suffix = (source if encoder == "src" else target) if encoder else END
    return LanguageTokens(added, (), (suffix,), (target if decoder else END,))


_TOKENS = {BART: _bart, MULTI: _multi, SEPARATE: _separate}


def leave_one_pair(state: Dict[str, Any], name: str, pair: Optional[Pair] = None) -> None:
    """Leaves one model, a plain transformer, of a checkpoint of ``multilingual_translation``.

    Other checkpoints stay as they are.

    Args:
        state: as ``read_checkpoint`` gives it; changed in place.
        name: how errors name the checkpoint.
        pair: whose encoder and decoder to keep; None for the first.

    Raises:
        ValueError: it has no model of this pair.
    """
    if options_of(state, "task")["_name"] != SEPARATE:
        return
    pairs = sorted({key.split(".")[1] for key in state["model"] if key.startswith("models.")})
    wanted = "-".join(pair) if pair else pairs[0] if pairs else ""
    if wanted not in pairs:
        raise ValueError(
            f"{name} has no model of {wanted}, but of {', '.join(pairs) or 'no pair'}. Give the "
            "languages by the names that it was trained with."
        )
    prefix = f"models.{wanted}."
    state["model"] = {
        key[len(prefix) :]: value for key, value in state["model"].items() if key.startswith(prefix)
    }
    held = [state.get("args"), (state.get("cfg") or {}).get("model")]
    for options in (each for each in held if each is not None):
        names = vars(options) if isinstance(options, Namespace) else options
        names.update(arch="transformer", _name="transformer")


def named_dictionaries(path: str, options: Mapping) -> List[Optional[Path]]:
    """The files of the source and the target dictionary that a task names; None where it does not.

    Raises:
        FileNotFoundError: a file is not there.
    """
    fixed = options.get("fixed_dictionary")
    named = [fixed or options.get(f"{side}_dict") for side in ("source", "target")]
    return [_file(path, str(name)) if name else None for name in named]


def _file(path: str, named: str) -> Path:
    """A file that the options of a checkpoint name: beside it, or where they say.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    named = named.replace("\0", "")  # no name of a file holds it
    beside = Path(path).resolve().parent / Path(named).name
    places = [beside, *data_folders(path, named)]
    for place in places:
        if os.path.isfile(place):  # False where a name is too long
            return place
    named, beside = named[:SHOWN], str(beside)[:SHOWN]
    raise FileNotFoundError(
        f"{named}, with which {path} was trained, is neither beside it nor where it was. Copy it "
        f"to {beside}."
    )


def _split(listed: Any) -> List[str]:
    """A list of names, which options hold as a list or separated by commas."""
    names = listed.split(",") if isinstance(listed, str) else listed
    names = names if isinstance(names, Sequence) else ()
    return [name.strip() for name in names if isinstance(name, str) and name.strip()]
