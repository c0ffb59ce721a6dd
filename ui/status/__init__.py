"""The status page: what operators see and move, with their own key."""
