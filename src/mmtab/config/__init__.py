"""Typed settings, and how they are composed from configs/ and overrides."""
