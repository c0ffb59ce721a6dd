"""The page people chat and vote on, and the operators' status page. Knows the gateway by HTTP only."""
