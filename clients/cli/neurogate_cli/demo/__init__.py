"""`neurogate demo`: data, training, servers and classified images, from nothing."""
