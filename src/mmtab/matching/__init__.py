"""Whole tables: which pairs are worth scoring, and which entities the scores make."""
