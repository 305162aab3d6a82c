"""What a gateway remembers: predictions, feedback, examples, retrainings and their events."""
