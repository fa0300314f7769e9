"""The kinds of input that `convert` reads."""
