"""Papers whose experiments this package reproduces."""
