"""What a new version is worth, and whether it may go live."""
