"""Reward models: trained, calibrated, kept and asked."""
