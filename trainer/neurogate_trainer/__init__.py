"""Data, training, evaluation and export of the models that Neurogate serves."""
