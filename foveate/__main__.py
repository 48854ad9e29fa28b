"""`python -m foveate` is the `foveate` command, also under `accelerate launch -m foveate`."""

from foveate.cli.main import main

if __name__ == "__main__":
    main()
