"""All that is measured on a GPU, in one command that loses nothing when it is cut: see __main__."""
