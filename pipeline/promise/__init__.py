"""The audit of early exit while a run goes on: what it changes, and whether it is more than was promised.

choice.py     which images are audited, and the flag by which actors learn to fall back
losses.py     how much a text differs from full depth's, and the losses of a table's images
wealth.py     the test that may be looked at after every image
watch.py      the driver's side: losses come in, an alarm may go out
"""
