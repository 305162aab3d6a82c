"""Where images come from, and the index that describes a data set."""
