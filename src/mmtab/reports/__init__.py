"""Pages and tables about runs, datasets and matches."""
