"""Every error that mri_unroll raises on purpose, and the advice that comes with it.

::

    MriUnrollError(message, hint)
      InputError            a file or an option is wrong         exit 2
        UnknownFormat       the content is no format we read
        CorruptScan         truncated, empty, non-finite, or contradicting itself
        UnsupportedScan     sound, but something in it is not handled (named)
      VerdictError          written, but not good enough (asked) exit 3
      ConfigError           a setting is wrong                   exit 2
      ModelError            weights do not fit, or their digest  exit 2
      ShapeError            arrays do not fit (also ValueError)  exit 70
      DeviceError           no such device, or out of memory     exit 75
      ConvergenceError      a solver stopped short, strict mode  exit 70
    ConvergenceWarning      a solver stopped short where no status can say so

``message`` says what was expected and what came; ``hint`` says what to do about it. Exit codes are mapped at the doors
(command line, service), never here.
"""


class MriUnrollError(Exception):
    """Base of all deliberate errors.

    Parameters
    ----------
    message
        One sentence: what was expected, what came.
    hint
        One sentence: what the user can do about it. May be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(MriUnrollError):
    """A file or an option that the user gave cannot be used."""


class UnknownFormat(InputError):
    """The content of a file is none of the formats that are read."""


class CorruptScan(InputError):
    """A file of a known format is truncated, empty, non-finite or contradicts itself."""


class UnsupportedScan(InputError):
    """A sound file asks for something that is not handled; the message names it."""


class VerdictError(MriUnrollError):
    """A picture was written, but its verdict is one that the user asked to fail on."""


class ConfigError(MriUnrollError):
    """A setting is unknown or out of range."""


class ModelError(MriUnrollError):
    """A checkpoint does not fit its configuration, or its digest is not the expected one."""


class ShapeError(MriUnrollError, ValueError):
    """Arrays do not fit together; the message names both shapes."""


class DeviceError(MriUnrollError):
    """The asked-for device is absent or ran out of memory."""


class ConvergenceError(MriUnrollError):
    """A solver did not reach its tolerance and ``strict=True`` was asked for."""


class ConvergenceWarning(UserWarning):
    """A solver did not reach its tolerance where no result can say so, such as in a backward pass."""
