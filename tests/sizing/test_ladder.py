"""The stages of a ladder: sizes by the formulas, limits, and refusals."""

import itertools
import re

import pytest

from fairseq_kd.sizing.ladder import (
    STRATEGIES,
    Size,
    buildable,
    checked_ladder,
    distinct_sizes,
    ladder_sizes,
    ratios_to,
    shrink,
    warnings,
)

REFERENCE = Size(12, 12, 512, 8, 2048)
TEACHERS = [
    REFERENCE,
    Size(24, 24, 1024, 16, 4096),
    Size(6, 6, 512, 8, 1024),
    Size(12, 1, 512, 4, 1536),
    Size(3, 2, 160, 4, 640),
    Size(1, 1, 16, 2, 32),
    Size(5, 3, 300, 6, 1000),  # heads of 50
    Size(4, 4, 60, 4, 100),  # heads of 15
    Size(2, 7, 600, 1, 2400),
    Size(3, 3, 8, 8, 4),
]
GRID = [thousandths / 1000 for thousandths in range(1000, 0, -1)]


@pytest.mark.parametrize(
    ("strategy", "size"),
    [
        ("balanced", Size(3, 3, 256, 4, 1024)),
        ("depth", Size(3, 3, 512, 8, 2048)),
        ("width", Size(12, 12, 256, 4, 1024)),
        ("deep-shallow", Size(6, 1, 256, 4, 1024)),  # decoder: 12 / 16, at least 1
    ],
)
def test_a_quarter_of_the_reference_teacher(strategy, size):
    assert shrink(REFERENCE, 0.25, strategy) == size


def test_layers_and_heads_round_halves_up():
    assert shrink(REFERENCE, 0.375, "depth")[:2] == (5, 5)  # 4.5
    assert shrink(Size(5, 3, 80, 5, 320), 0.5, "depth")[:2] == (3, 2)  # 2.5, 1.5
    assert shrink(Size(15, 15, 80, 5, 320), 0.7, "depth")[0] == 11  # 10.5
    assert shrink(Size(25, 25, 80, 5, 320), 0.58, "depth")[0] == 15  # 14.5, in floats just below
    assert shrink(Size(2, 2, 90, 9, 360), 0.25, "width")[2:4] == (50, 5)  # 4.5 heads of 10


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("teacher", TEACHERS, ids=str)
def test_layers_heads_and_width_follow_the_formulas(teacher, strategy):
    encoder, decoder, across = STRATEGIES[strategy]
    half = 0.501
    for ratio in GRID[1:]:
        size = shrink(teacher, ratio, strategy)
        assert abs(size.encoder_layers - max(1, teacher.encoder_layers * ratio**encoder)) <= half
        assert abs(size.decoder_layers - max(1, teacher.decoder_layers * ratio**decoder)) <= half
        assert abs(size.heads - max(1, teacher.heads * ratio**across)) <= half
        whole = teacher.width // teacher.heads
        even = whole if whole % 2 == 0 or across == 0 or whole == 1 else whole - 1
        if size.heads > 1:
            assert size.width == size.heads * even
        else:
            assert abs(size.width - min(even, teacher.width * ratio**across)) <= 4


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("teacher", TEACHERS, ids=str)
def test_nothing_grows_on_the_way_down_and_units_are_whole(teacher, strategy):
    sizes = [shrink(teacher, ratio, strategy) for ratio in GRID]
    assert sizes[0] == teacher
    for before, after in itertools.pairwise(sizes):
        assert all(new <= old for new, old in zip(after, before, strict=True))
        assert after.width // after.heads <= before.width // before.heads
    for size in sizes:
        assert min(size) >= 1
        assert size.width % size.heads == 0
    for size in (size for size in sizes if size.width < teacher.width):
        each, whole = size.width // size.heads, teacher.width // teacher.heads
        assert each % 2 == 0 or whole == 1
        assert size.width < 256 or each % 8 == 0 or whole % 8
        assert size.width % 8 or size.feed_forward % 8 == 0 or teacher.feed_forward < 8


@pytest.mark.parametrize(
    ("target", "ratios"),
    [
        (0.25, [1.0, 0.7, 0.49, 0.343, 0.25]),
        (0.343, [1.0, 0.7, 0.49, 0.343]),
        (0.34, [1.0, 0.7, 0.49, 0.34]),  # 0.343 would be a stage for nothing
        (0.5, [1.0, 0.7, 0.5]),
        (0.9, [1.0, 0.9]),
    ],
)
def test_ratios_shrink_by_the_factor_until_the_target(target, ratios):
    assert ratios_to(target) == ratios


def test_ratios_shrink_by_another_factor():
    assert ratios_to(0.25, 0.5) == [1.0, 0.5, 0.25]
    assert ratios_to(0.125, 0.25) == [1.0, 0.25, 0.125]  # just half a step


def test_an_explicit_ladder_may_leave_the_teacher_out():
    assert checked_ladder([0.75, 0.5, 0.25]) == [1.0, 0.75, 0.5, 0.25]
    assert checked_ladder([1, 0.5]) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ([1.0, 0.5, 0.75], "must go down, but 0.75 follows 0.5. The nearest ladder that can be "
         "built is 1.0,0.75,0.5."),
        ([0.5, 0.5], "must go down, but 0.5 follows 0.5. The nearest ladder that can be built is "
         "1.0,0.5."),
        ([1.5, 0.5], "must be greater than 0 and at most 1, but one is 1.5. The nearest ladder "
         "that can be built is 1.0,0.5."),
        ([1.0], "must have a stage below 1.0. The nearest ladder that can be built is 1.0,0.7."),
    ],
)  # fmt: skip
def test_a_ladder_that_does_not_go_down_is_refused(ratios, message):
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        checked_ladder(ratios)


SMALL = Size(3, 2, 160, 4, 640)


@pytest.mark.parametrize(
    ("ratios", "strategy", "message"),
    [
        ([1.0, 0.7, 0.343, 0.25], "balanced", "The stages at 0.343 and 0.25 would be the same by "
         "the strategy balanced: 1+1 layers of width 80 with 2 heads. The nearest ladder that can "
         "be built is 1.0,0.7,0.25."),
        ([1.0, 0.96, 0.5], "balanced", "The stage at 0.96 would be as large as the teacher by the "
         "strategy balanced: 3+2 layers of width 160 with 4 heads. The nearest ladder that can be "
         "built is 1.0,0.5."),
        ([1.0, 0.96], "balanced", "The stage at 0.96 would be as large as the teacher by the "
         "strategy balanced: 3+2 layers of width 160 with 4 heads. The nearest ladder that can be "
         "built is 1.0,0.833."),
        ([1.0, 0.5, 0.3, 0.2, 0.1], "depth", "The stages at 0.3 and 0.2 would be the same by the "
         "strategy depth: 1+1 layers of width 160 with 4 heads. The nearest ladder that can be "
         "built is 1.0,0.5,0.1."),
    ],
)  # fmt: skip
def test_stages_that_are_the_same_are_refused(ratios, strategy, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ladder_sizes(SMALL, ratios, strategy)
    nearest = [float(ratio) for ratio in re.search(r"is ([\d.,]+)\.$", message)[1].split(",")]
    assert buildable(SMALL, ratios, strategy) == nearest
    assert len(ladder_sizes(SMALL, nearest, strategy)) == len(nearest)


def test_a_teacher_that_a_strategy_cannot_shrink_is_refused():
    with pytest.raises(ValueError, match="strategy depth cannot build anything smaller than 1\\+1"):
        ladder_sizes(Size(1, 1, 64, 4, 256), [1.0, 0.5], "depth")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_distinct_stages_differ_and_have_their_largest_ratio(strategy):
    found = distinct_sizes(REFERENCE, strategy)
    assert len({size for _, size in found}) == len(found)
    assert found[-1][1] == shrink(REFERENCE, 0.01, strategy)  # as far down as a search goes
    for ratio, size in found:
        assert shrink(REFERENCE, ratio, strategy) == size
        assert shrink(REFERENCE, ratio + 0.001, strategy) != size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shrink(REFERENCE, 0.5, "tall"), "must be one of balanced, depth, width, deep-s"),
        (lambda: shrink(REFERENCE, 0, "depth"), "greater than 0 and at most 1, but is 0."),
        (lambda: ratios_to(1.0), "The target must be between 0 and 1, but is 1.0."),
        (lambda: ratios_to(0.5, 0.9999999), "gives more than 100 stages to 0.5. Choose a sm"),
        (lambda: ratios_to(0.5, 1.0), "The factor must be between 0 and 1, but is 1.0."),
    ],
)
def test_what_is_no_ratio_or_strategy_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def message(ratios, strategy="balanced", parameters=None):
    return warnings(ratios, ladder_sizes(REFERENCE, ratios, strategy), strategy, parameters)


def test_a_usual_ladder_has_no_warning():
    assert message(ratios_to(0.25), parameters=[930, 496, 287, 147, 81]) == []


def test_a_step_that_is_just_not_too_steep_has_no_warning():
    """Three quarters of the layers, half of the width, and three times fewer parameters."""
    assert message([1.0, 0.25], parameters=[930, 310]) == []


def test_steep_steps_are_reported():
    assert message([1.0, 0.7, 0.4], parameters=[930, 310, 93]) == [
        "From 0.7 to 0.4, parameters fall 3.3 times, where 3 to 4 times is aggressive. A stage "
        "between, such as 0.53, makes two easier steps of it."
    ]
    assert message([1.0, 0.35], "deep-shallow") == [
        "From 1.0 to 0.35, the decoder loses 11 of 12 layers. A stage between, such as 0.59, makes "
        "two easier steps of it."
    ]
    assert message([1.0, 0.2]) == [
        "From 1.0 to 0.2, the encoder loses 10 of 12 layers and the decoder loses 10 of 12 layers. "
        "A stage between, such as 0.45, makes two easier steps of it."
    ]
    assert message([1.0, 0.19], "width") == [
        "From 1.0 to 0.19, the width falls by more than half, from 512 to 192. A stage between, "
        "such as 0.44, makes two easier steps of it."
    ]
