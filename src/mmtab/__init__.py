"""Multimodal tabular learning: tables whose rows mix text, numbers, categories and images."""

__version__ = "0.1.0"
