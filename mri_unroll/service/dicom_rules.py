"""Rules of the DICOM node: which job a series becomes, and whether a rule can be followed at all."""

from __future__ import annotations

from pydantic import ValidationError

from mri_unroll.errors import ConfigError, InputError
from mri_unroll.io.dicom.peer import parse_address
from mri_unroll.service.settings import DicomRule, ServiceSettings
from mri_unroll.service.wish import Wish


def wish_of_rule(rule: DicomRule) -> Wish:
    """The job that a rule asks for.

    Raises
    ------
    ConfigError
        If it contradicts itself.
    """
    wish = Wish(
        mode=rule.mode,
        psf=rule.psf,
        method=rule.method,
        accelerate=rule.accelerate,
        i_understand_simulated=rule.insist,
    )
    wish.check()
    return wish


def check_rules(settings: ServiceSettings) -> None:
    """See to it before anything starts that every rule can be followed.

    Raises
    ------
    ConfigError
        If one cannot.
    """
    for rule in settings.dicom_rules:
        try:
            wish_of_rule(rule)
            for address in rule.send_to:
                parse_address(address)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"A rule of the DICOM node cannot be followed: `{place}`: {first['msg']}.", "Correct `dicom_rules`."
            ) from error
        except InputError as error:
            raise ConfigError(
                f"A rule of the DICOM node cannot be followed. {error.message}", "Correct `dicom_rules`."
            ) from error
