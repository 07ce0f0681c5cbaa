"""``python -m mmtab.cli COMMAND``, by which the library starts processes of its own."""

from mmtab.cli.main import main

if __name__ == "__main__":
    main()
