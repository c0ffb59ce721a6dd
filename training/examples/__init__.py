"""From votes to token ids that can be trained on."""
