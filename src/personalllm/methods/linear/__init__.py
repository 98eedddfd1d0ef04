"""Methods that learn linear utilities of text features."""
