"""The training and test pairs: mined from packages, loaded, and with copies in a share that is under control."""
