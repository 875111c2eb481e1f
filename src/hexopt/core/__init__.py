"""Plain data that every other package speaks in; imports nothing but :mod:`hexopt.errors`."""
