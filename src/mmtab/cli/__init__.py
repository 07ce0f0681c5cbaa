"""The command line: what scripts/ call."""
