"""Stubs of the public contract, neurogate.v1."""
