"""DICOM files to 8-bit pictures. The decoder lives in child processes; users of this never import it."""

from .pool import CHILDREN, DicomPool, close_decoders, decode_dicom, is_dicom

__all__ = ["CHILDREN", "DicomPool", "close_decoders", "decode_dicom", "is_dicom"]
