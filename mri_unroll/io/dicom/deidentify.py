"""Take a person out of DICOM objects: the basic profile of PS3.15 E, by `dicognito` and what it leaves.

Faces remain: a head can be recognised from its picture (option 113102, cleaning of visual features, is not done).
"""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items

from mri_unroll import __version__
from mri_unroll.errors import ConfigError
from mri_unroll.io.dicom.files import quietly
from mri_unroll.io.dicom.provenance import code

KEY_VARIABLE = "MRI_UNROLL_DEIDENTIFY_KEY"
FACES = "De-identified, but faces remain: a head can be recognised from its pictures."

# Text that people type, and whereabouts: removed by the basic profile (PS3.15 Table E.1-1, X), left by dicognito.
_REMOVED = (
    *("StudyDescription", "ProtocolName", "PatientComments", "AdditionalPatientHistory", "Allergies", "MedicalAlerts"),
    *(
        "PatientAddress",
        "PatientBirthName",
        "PatientMotherBirthName",
        "PatientState",
        "PregnancyStatus",
        "SmokingStatus",
    ),
    *("SpecialNeeds", "LastMenstrualDate", "EthnicGroup", "CountryOfResidence", "RegionOfResidence", "PatientAge"),
    *(
        "AdmittingDiagnosesDescription",
        "AdmittingDiagnosesCodeSequence",
        "AdmissionID",
        "AdmittingDate",
        "AdmittingTime",
    ),
    *(
        "ReasonForStudy",
        "ReasonForTheRequestedProcedure",
        "RequestedProcedureDescription",
        "RequestedProcedureComments",
    ),
    *("RequestAttributesSequence", "RequestedProcedureCodeSequence", "ProcedureCodeSequence", "StudyComments"),
    *("PerformedProcedureStepDescription", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
    *("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "CommentsOnThePerformedProcedureStep"),
    *("PerformedProtocolCodeSequence", "ScheduledStepAttributesSequence", "InterpretationText", "ResultsComments"),
    *(
        "IdentifyingComments",
        "VisitComments",
        "ContrastBolusAgent",
        "AcquisitionComments",
        "AcquisitionProtocolDescription",
    ),
    *("InstitutionalDepartmentName", "InstitutionName", "InstitutionAddress", "InstitutionCodeSequence", "StationName"),
    *("DeviceSerialNumber", "PlateID", "CassetteID", "DetectorID", "GantryID", "DeviceUID", "UID"),
    *(
        "ReferencedStudySequence",
        "ReferencedPatientSequence",
        "ReferencedPatientAliasSequence",
        "OtherPatientIDsSequence",
    ),
    *(
        "OtherPatientNames",
        "IssuerOfPatientID",
        "IssuerOfPatientIDQualifiersSequence",
        "IssuerOfAccessionNumberSequence",
    ),
    *("ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialProtocolEthicsCommitteeApprovalNumber"),
    *(
        "PersonName",
        "PersonAddress",
        "PersonTelephoneNumbers",
        "TextString",
        "TextComments",
        "TextValue",
        "FrameComments",
    ),
    *("IconImageSequence", "EncryptedAttributesSequence", "OriginalAttributesSequence", "DigitalSignaturesSequence"),
)
_TEXT = ("DA", "DT", "LO", "PN", "SH", "TM", "UI")
_OURS = ("SeriesDescription", "DerivationDescription", "ImageComments", "ContributionDescription")


class Deidentifier:
    """Removes identity in the same way from every object that it is given.

    Parameters
    ----------
    key
        Secret: the same key gives the same new names, identifiers and shift of dates, so that series of one person that
        are done at different times still belong together.

    Raises
    ------
    ConfigError
        If dicognito is not installed.
    """

    def __init__(self, key: str) -> None:
        try:
            from dicognito.anonymizer import Anonymizer
        except ImportError as error:
            raise ConfigError(
                "De-identification needs dicognito, which is not installed.",
                "Install it with `pip install 'mri-unroll[dicom]'`.",
            ) from error
        self._anonymizer: Any = Anonymizer(seed=key)

    def __call__(self, dataset: Dataset) -> None:
        """Change an object in place."""
        with quietly():
            dataset.remove_private_tags()
            for keyword in _REMOVED:
                if keyword in dataset:
                    del dataset[keyword]
            for element in list(dataset.iterall()):
                if element.VR in ("LT", "UT", "ST") and element.keyword not in _OURS:
                    element.value = ""
                if element.VR in _TEXT and element.value is None:
                    element.value = ""  # as in a file that was read; dicognito knows no None
            if not hasattr(dataset, "file_meta"):  # dicognito looks into it
                dataset.file_meta = FileMetaDataset()
            self._anonymizer.anonymize(dataset)
            dataset.PatientIdentityRemoved = "YES"
            dataset.LongitudinalTemporalInformationModified = "MODIFIED"
            dataset.RecognizableVisualFeatures = "YES"
            dataset.DeidentificationMethod = f"mri_unroll {__version__} with dicognito: PS3.15 basic profile"
            profile = code("113100", "DCM", "Basic Application Confidentiality Profile")
            dates = code("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option")
            dataset.DeidentificationMethodCodeSequence = Items([profile, dates])
            item = Dataset()
            item.PurposeOfReferenceCodeSequence = Items([code("109104", "DCM", "De-identifying Equipment")])
            item.Manufacturer, item.SoftwareVersions = "mri_unroll", __version__
            before = list(dataset.get("ContributingEquipmentSequence", []))
            dataset.ContributingEquipmentSequence = Items([*before, item])


@lru_cache(maxsize=1)
def deidentifier() -> tuple[Deidentifier, str]:
    """The one of this run, and a sentence on what its key means for the next.

    The key is the environment variable ``MRI_UNROLL_DEIDENTIFY_KEY``: it is a secret, so it is never an argument, which
    other users of a machine can see.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key:
        return Deidentifier(key), FACES
    said = f"{KEY_VARIABLE} is not set: another run gives this person another name and other dates."
    return Deidentifier(secrets.token_hex(16)), f"{FACES} {said}"
