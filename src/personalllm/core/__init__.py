"""Types, protocols, errors, names, seeds, storage, statistics and plotting that all rooms share."""
