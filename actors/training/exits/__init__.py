"""Which layers should be exits: what they cost on this device, how far they agree, and what would be saved."""
