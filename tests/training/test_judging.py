"""Which of many epochs is the best, by samples that are few."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from onnxprune.training.judging import Score, better

pytestmark = pytest.mark.torch


def chosen(before: Score, later: list[Score]) -> int:
    """The number of the epoch that is taken; 0 for the model as it came."""
    best, number, top = before, 0, before.first
    for i, new in enumerate(later, 1):
        top = max(top, new.first)
        if better(new, best, top):
            best, number = new, i
    return number


def agreeing(distance: float, agreement: float, of: int = 100) -> Score:
    return Score(distance, agreement, None, of)


def test_agreement_that_jumps_is_not_what_decides() -> None:
    lucky = agreeing(4.9, 0.86)
    later = [agreeing(5.1, 0.83), lucky, agreeing(4.5, 0.84), agreeing(4.0, 0.85)]
    assert chosen(agreeing(5.0, 0.83), later) == 4


def test_more_than_an_error_of_agreement_does() -> None:
    before = agreeing(5.0, 0.70, 10_000)
    later = [agreeing(4.0, 0.80, 10_000), agreeing(3.9, 0.75, 10_000), agreeing(4.4, 0.82, 10_000)]
    assert chosen(before, later) == 3


def test_less_agreement_than_before_is_taken_within_an_error_and_no_further() -> None:
    for of, taken in ((100, 1), (10_000, 0)):
        assert chosen(agreeing(5.0, 0.83, of), [agreeing(4.0, 0.81, of)]) == taken


def test_a_model_further_from_the_original_is_never_taken_for_luck() -> None:
    assert chosen(agreeing(5.0, 0.83), [agreeing(5.1, 0.85)]) == 0


def test_labels_come_first() -> None:
    before = Score(5.0, 0.8, 0.70, 100)
    assert chosen(before, [Score(6.0, 0.7, 0.71, 100), Score(1.0, 0.9, 0.705, 100)]) == 1


def test_without_classes_it_is_the_distance() -> None:
    assert chosen(Score(5.0), [Score(4.0), Score(3.0), Score(3.5)]) == 2
