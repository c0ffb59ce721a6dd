"""The engines that answer as one, and what is loaded in them."""
