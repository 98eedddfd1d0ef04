"""The users whose preferences are learned and predicted: simulated ones, and people."""
