"""A procedural stand-in for a brain MRI data set: template anatomy with synthetic lesions.

It exists for demos and tests. Nothing here shows a patient and nothing learnt from it holds for one.
"""
