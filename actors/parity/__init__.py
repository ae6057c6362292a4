"""Do the library and this pipeline say the same of a picture file? For users (`deed parity`) and for the tests."""
