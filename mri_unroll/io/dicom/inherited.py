"""What a derived picture takes over from the header of its source, and what every MR object has to hold."""

from __future__ import annotations

import copy

from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from mri_unroll.io.dicom.provenance import identifier
from mri_unroll.io.dicom.series import Frame

# Of a copied header: what belongs to the old pixels, the old encoding, or to whom the copy is none of.
_DROPPED = (
    *("AcquisitionDeviceProcessingCode", "AcquisitionDeviceProcessingDescription", "SmallestImagePixelValue"),
    *("LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation"),
    *("RealWorldValueMappingSequence", "RedPaletteColorLookupTableDescriptor", "PresentationLUTShape"),
    *("PixelAspectRatio", "PlanarConfiguration", "NumberOfFrames", "FrameIncrementPointer", "IconImageSequence"),
    *("DigitalSignaturesSequence", "MACParametersSequence", "OriginalAttributesSequence"),
    *("ReferencedPerformedProcedureStepSequence", "ReferencedImageSequence", "SourceImageSequence"),
    *("DerivationCodeSequence", "DerivationImageSequence", "InstanceCreatorUID", "StorageMediaFileSetUID"),
    *("DimensionOrganizationSequence", "DimensionOrganizationType", "DimensionIndexSequence", "DimensionIndexValues"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ConcatenationUID"),
    *("InConcatenationNumber", "InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber"),
    *("SOPInstanceUIDOfConcatenationSource", "PixelPresentation", "VolumetricProperties"),
    *("VolumeBasedCalculationTechnique", "ComplexImageComponent", "AcquisitionContrast", "StackID"),
    *("InStackPositionNumber", "TemporalPositionIndex", "FrameLaterality", "FrameComments", "FrameLabel"),
    *("FrameAcquisitionDuration", "ApplicableSafetyStandardAgency", "LossyImageCompressionRatio"),
    *("LossyImageCompressionMethod", "LossyImageCompression", "ContentQualification", "ImageComments"),
    *("PhotometricInterpretation", "SlabOrientation", "SlabThickness", "MidSlabPosition"),
)
_EMPTY_IF_MISSING = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"),
    *("ReferringPhysicianName", "StudyID", "Manufacturer", "PositionReferenceIndicator", "PatientPosition"),
    *("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"),
)

_SNOMED = ("SCT", "SRT", "SNM3")
_PAIRED = (  # PS3.16 Annex L, what MR is made of
    *("ANKLE", "ARM", "BREAST", "CALF", "CAROTID", "CLAVICLE", "EAR", "ELBOW", "EYE", "FEMUR", "FINGER", "FOOT"),
    *("FOREARM", "HAND", "HIP", "HUMERUS", "IAC", "KIDNEY", "KNEE", "LEG", "ORBIT", "SCAPULA", "SHOULDER", "SIJOINT"),
    *("THIGH", "THUMB", "TMJ", "TOE", "WRIST"),
)


def copied(frame: Frame, keep_private: bool) -> Dataset:
    """A frame's header, without what belonged to its pixels, its encoding or its vendor."""
    dataset = Dataset()
    for element in frame.header:
        group = element.tag.group
        overlay = 0x5000 <= group <= 0x501F or 0x6000 <= group <= 0x601F
        if group in (0x0002, 0x7FE0, 0xFFFC) or overlay or (element.tag.is_private and not keep_private):
            continue
        if element.keyword not in _DROPPED:
            dataset[element.tag] = copy.deepcopy(element)
    if not keep_private:
        dataset.remove_private_tags()
    # Values are decoded by the source's character set as they are read; what is written is UTF-8.
    dataset.decode()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    complete(dataset)
    return dataset


def complete(dataset: Dataset) -> None:
    """What every MR object has to hold, if only empty (PS3.3 A.4.3)."""
    for keyword in _EMPTY_IF_MISSING:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    if "InversionTime" in dataset and not dataset.InversionTime:  # nothing, or zero: there was no inversion
        del dataset.InversionTime
    # Enhanced MR has no such word; an inversion time is allowed beside IR alone.
    sequence = "IR" if dataset.get("InversionTime") else "RM"
    for keyword, value in (("ScanningSequence", sequence), ("SequenceVariant", "NONE"), ("Modality", "MR")):
        if not dataset.get(keyword):
            setattr(dataset, keyword, value)
    phase_encoding = {"COLUMN": "COL", "COL": "COL", "ROW": "ROW"}.get(
        str(dataset.get("InPlanePhaseEncodingDirection"))
    )
    if phase_encoding is not None:  # Enhanced MR writes the word out
        dataset.InPlanePhaseEncodingDirection = phase_encoding
    elif "InPlanePhaseEncodingDirection" in dataset:
        del dataset.InPlanePhaseEncodingDirection
    if _may_be_one_of_two(dataset):
        dataset.setdefault("Laterality", "")  # asked for where the body part may be one of a pair; unknown here
    if not dataset.get("StudyInstanceUID"):
        dataset.StudyInstanceUID = identifier("study", str(dataset.get("SeriesInstanceUID", "")))
    if not dataset.get("FrameOfReferenceUID"):
        dataset.FrameOfReferenceUID = identifier("frame", str(dataset.StudyInstanceUID))
    dataset.SOPClassUID = MRImageStorage


def _may_be_one_of_two(dataset: Dataset) -> bool:
    if dataset.get("ImageLaterality"):
        return False
    part = str(dataset.get("BodyPartExamined") or "")
    for region in dataset.get("AnatomicRegionSequence") or ():
        if not part and region.get("CodingSchemeDesignator") in _SNOMED:
            part = str(region.get("CodeMeaning") or "")
    return not part or part.strip().upper() in _PAIRED
