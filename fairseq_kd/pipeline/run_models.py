"""The models of a run: those that its steps train, and existing checkpoints."""

from typing import List, NamedTuple, Optional, Tuple

from fairseq_kd.fairseq_flags import Flags


class Model(NamedTuple):
    """A model that the run trains, or an existing one.

    Args:
        name: the name of its step, or of the given teacher.
        checkpoint: its file.
        step: the step that makes it; None if it exists already.
        updates: the length of its training, if a step trains it.
        start: the model whose weights that training starts from; None for random weights.
        languages: the names of the run's languages in the model, if they are others.
    """

    name: str
    checkpoint: str
    step: Optional[str]
    updates: int = 0
    start: Optional["Model"] = None
    languages: Optional[Tuple[str, str]] = None

    @property
    def after(self) -> List[str]:
        """The step that makes the model, as a list; empty if it exists already."""
        return [self.step] if self.step else []

    def language_flags(self, teacher: str = "teacher") -> Flags:
        """The flags that name its languages, where it needs any; ``teacher`` is the teacher's."""
        if self.languages is None:
            return {}
        source, target = self.languages
        return {f"{teacher}-source-lang": source, f"{teacher}-target-lang": target}

    def reads(self) -> List[str]:
        """Its checkpoint as an input file; none if a step of the run makes it."""
        return [] if self.step else [self.checkpoint]

    def updates_behind(self) -> Optional[int]:
        """The updates of its weights in all, inherited ones included; None if unknown."""
        from fairseq_kd.checkpoints.updates import updates_behind  # which imports torch

        if self.step is None:
            return updates_behind(self.checkpoint)
        inherited = self.start.updates_behind() if self.start else 0
        return None if inherited is None else inherited + self.updates
