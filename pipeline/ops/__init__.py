"""What a run needs from its machines: the cluster, metrics, energy, and the search for rows that kill."""
