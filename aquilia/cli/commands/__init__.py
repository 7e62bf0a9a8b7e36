"""The commands of `aq`, a file each."""
