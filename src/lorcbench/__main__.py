"""``python -m lorcbench`` is the command ``lorcbench``."""

from lorcbench.cli import main

if __name__ == "__main__":
    main()
