"""Stop 1: files become one ``Table`` a split, in the standard that dataset.yaml describes."""
