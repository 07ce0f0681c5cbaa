"""The command line. ``mmtab COMMAND``, ``python -m mmtab.cli COMMAND`` and scripts/ run the same functions."""
