"""Our losses against those of other people's trainers."""
