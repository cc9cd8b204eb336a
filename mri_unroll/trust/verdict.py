"""The verdict, go, check or no-go, with advice in sentences: the one place where all that is known is weighed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mri_unroll.trust.checks import Check
from mri_unroll.trust.prediction import Prediction

Answer = Literal["go", "check", "no-go"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)  # from best to worst
# Normalised squared error of the magnitude. At 0.02 (17 dB) fine structure begins to go; at 0.1 (10 dB) what is shown
# is a blur or mostly noise, and a zero-filled picture is as good.
CHECK_NMSE, NO_GO_NMSE = 0.02, 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to think of a picture."""

    answer: Answer
    advice: tuple[str, ...]
    predicted: Prediction | None  # None: `advice` says why
    checks: tuple[Check, ...]

    @property
    def text(self) -> str:
        """In one line, for the description of a DICOM object."""
        return " ".join((f"Verdict {self.answer}.", *self.advice))

    def summary(self) -> dict[str, Any]:
        """As the sidecar, the service and DICOM text have it."""
        return {
            "verdict": self.answer,
            "advice": list(self.advice),
            "predicted": None if self.predicted is None else asdict(self.predicted),
            "checks": {
                check.name: {
                    "verdict": check.verdict,
                    "score": check.score,
                    "limit": check.limit,
                    "hard_limit": check.hard_limit,
                    "means": check.says,
                }
                for check in self.checks
            },
        }


def judge(
    predicted: Prediction | None, checks: Sequence[Check], reasons: Sequence[str] = (), finite: bool = True
) -> Verdict:
    """Weigh prediction and checks; the worst of them counts.

    Parameters
    ----------
    predicted
        None where no error can be predicted; ``reasons`` then says why, and the verdict is ``check`` at best.
    checks
        All that were made.
    reasons
        Sentences on what could not be judged.
    finite
        Whether all pixels are numbers.
    """
    answer: Answer = "go"
    advice: list[str] = []
    if not finite:
        answer, advice = "no-go", ["The picture holds values that are not finite; do not use it."]
    if predicted is not None:
        decibels = -10 * math.log10(max(predicted.nmse, 1e-12))
        interval = f"{predicted.nmse:.2g} (between {predicted.low:.2g} and {predicted.high:.2g})"
        if predicted.nmse > NO_GO_NMSE:
            answer = "no-go"
            advice.append(
                f"The predicted squared error is {interval} of the picture's energy: do not read fine structure. "
                "Measure more lines or average more."
            )
        elif predicted.nmse > CHECK_NMSE:
            answer = worst(answer, "check")
            advice.append(
                f"The predicted squared error is {interval} of the picture's energy: fine structure may be lost."
            )
        else:
            advice.append(
                f"The predicted squared error is {interval} of the picture's energy, {decibels:.0f} dB below it."
            )
    elif answer == "go":
        answer = "check"
    for check in sorted(checks, key=lambda one: ANSWERS.index(one.verdict), reverse=True):
        if check.verdict != "go":
            answer = worst(answer, check.verdict)
            advice.append(
                check.says + (" Do not use the picture." if check.verdict == "no-go" else " Look at it with care.")
            )
    return Verdict(answer, (*advice, *reasons), predicted, tuple(checks))


def worst(one: Answer, other: str) -> Answer:
    """The worse of two answers."""
    return max(one, ANSWERS[ANSWERS.index(other)], key=ANSWERS.index)
