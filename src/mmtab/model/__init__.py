"""Stops 4 to 6: a batch becomes tokens, a row vector and logits."""
