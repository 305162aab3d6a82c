"""Where images come from, what a data set holds, and how it is split."""
