"""Stops 2 and 3: a table becomes features, computed once and cached, and slices of them become batches."""
