"""Run the command with `python -m tessera_export`."""

from tessera_export.cli import main

if __name__ == "__main__":
    main()
