"""From a request to its answer, or two: streamed or whole."""
