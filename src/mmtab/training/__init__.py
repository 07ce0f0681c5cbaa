"""Stop 7: logits become a loss and metrics; the loop that fits a model, and its checkpoints."""
