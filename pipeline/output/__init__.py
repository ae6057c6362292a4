"""One output: who may write it, what is staged and published in it, how a run takes it up and ends."""
