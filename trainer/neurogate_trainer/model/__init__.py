"""The network, its weights, and the map of evidence in its graph."""
