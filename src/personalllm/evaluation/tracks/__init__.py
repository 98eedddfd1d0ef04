"""The tracks: what is asked of methods and what is measured, one file each."""
