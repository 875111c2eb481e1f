"""``python -m hexopt.cli``: the command line where the ``hexopt`` script is not on the path."""

from hexopt.cli import main

if __name__ == "__main__":
    main()
