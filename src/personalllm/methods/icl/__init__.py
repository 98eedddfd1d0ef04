"""Methods that put examples into the context of a chat model."""
