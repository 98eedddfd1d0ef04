"""Methods that ignore the user, or need no training."""
