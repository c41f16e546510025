"""Every criterion with its flags: those with which it distils, and those with which it does not."""

from three_languages import PIVOT

CRITERIONS = {
    "word_kd": ["--kd-teacher", "TEACHER"],
    "word_kd from a store": ["--kd-store", "STORE"],
    "feature_kd": ["--kd-teacher", "LARGE"],
    "attention_kd": ["--kd-teacher", "LARGE", "--kd-attention-heads", "learned"],
    "hybrid_kd": ["--kd-teacher", "LARGE", "--kd-log-gradients"],
    "multi_teacher_kd": ["--kd-teacher", "TEACHER:LARGE", "--kd-teacher-weights", "learned"],
    "mutual_learning": ["--kd-peers", "3", "--kd-peer-overrides", "encoder_layers=2"],
    "cross_lingual_kd": ["--kd-teacher", "TEACHER", "--kd-align-level", "both", *PIVOT],
}
NO_WORDS = ["--kd-alpha", "0", "--kd-beta", "1"]
NO_FEATURES, NO_ATTENTION = ([f"--kd-{name}-weight", "0"] for name in ("feature", "attention"))
UNDISTILLED = {
    "word_kd": NO_WORDS,
    "feature_kd": [*NO_WORDS, *NO_FEATURES],
    "attention_kd": [*NO_WORDS, *NO_ATTENTION],
    "hybrid_kd": [*NO_WORDS, *NO_FEATURES, *NO_ATTENTION],
    "multi_teacher_kd": NO_WORDS,
    "mutual_learning": ["--kd-mutual-weight", "0", "--kd-peer-overrides", "encoder_layers=2"],
    "cross_lingual_kd": [*NO_WORDS, "--kd-align-weight", "0", *PIVOT],
}


def filled(name, **paths):
    """The flags of a criterion, with the paths of its teachers."""
    words = ["--criterion", name.split()[0], "--label-smoothing", "0.1", *CRITERIONS[name]]
    for key, path in paths.items():
        words = [word.replace(key, path) for word in words]
    return words
