"""Methods that train a network; they need the extra torch."""
