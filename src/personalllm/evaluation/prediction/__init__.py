"""The predict track, on simulated users and on people; its public names are in `personalllm.evaluation`."""

__all__: list[str] = []
