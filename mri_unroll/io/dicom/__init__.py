"""DICOM: magnitude studies in, derived series out. A magnitude study holds pictures, never k-space."""
